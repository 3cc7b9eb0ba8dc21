"""Hearing the signals that end a process, beside whoever hears them already."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def at_signals(
    call: Callable[[], object], numbers: Sequence[signal.Signals] = ENDING, *, beside: bool = True
) -> Callable[[], None]:
    """Call this in the running loop at these signals; what it returns puts back the handlers that were there.

    `beside` them: they are called as well, and a signal that nobody handles still ends the process. Else instead of
    them. Outside the main thread, which alone hears signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    found = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)
        earlier = found[signal.Signals(number)]
        if beside and callable(earlier):
            earlier(number, frame)

    heard = [number for number, earlier in found.items() if callable(earlier) or not beside]
    for number in heard:
        signal.signal(number, handle)

    def undo() -> None:
        for number in heard:
            if signal.getsignal(number) is handle:
                signal.signal(number, found[number])

    return undo
