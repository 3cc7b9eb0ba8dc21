"""Many callers of an asynchronous system at once, as the requests of a web server are."""

import asyncio
import time
from collections.abc import Awaitable, Callable

CALLERS = 1_000


async def seconds(call: Callable[[], Awaitable[object]], count: int) -> float:
    """How long `count` calls take, each caller's one after the other."""

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    left = count
    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - start
