"""Answers that are known before they are awaited, and those that nobody awaits."""

from __future__ import annotations

import asyncio
from typing import Any


def done() -> asyncio.Future[Any]:
    """In the event loop: a future that has nothing to tell."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def failed(error: Exception) -> asyncio.Future[Any]:
    """In the event loop: a future that raises this where it is awaited, and is not called unseen where it never is."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    seen(future)
    return future


def seen(future: asyncio.Future[Any]) -> None:
    """Its failure is no surprise to anyone, though nobody may await it."""
    if not future.cancelled():
        future.exception()
