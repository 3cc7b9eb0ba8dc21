"""Taking messages: what one worker has been handed, of all that its process gets."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from ...errors import BrokerUnavailable
from ..folded.driver import Handed, Intake
from ..folded.wire import Message


class Source(ABC):
    """This process as a member of a group. `on_left` is called when the last intake has left: it is closed then."""

    def __init__(self, on_left: Callable[[], object]) -> None:
        self._on_left = on_left
        self._intakes: list[KafkaIntake] = []

    def join(self, intake: KafkaIntake) -> None:
        self._intakes.append(intake)
        self._deal()

    async def leave(self, intake: KafkaIntake) -> None:
        if intake in self._intakes:
            self._intakes.remove(intake)
            if not self._intakes:
                self._on_left()
                await self.close()

    async def close(self) -> None:
        """Give back what is held, and leave the group."""
        for intake in self._intakes:
            intake.end(BrokerUnavailable("the broker is closed"))
        await self._leave_group()

    @abstractmethod
    def settle(self, handed: KafkaHanded) -> None: ...

    @abstractmethod
    def give_back(self, handed: KafkaHanded) -> None: ...

    @abstractmethod
    def _deal(self) -> None:
        """Hand out what there is room for."""

    @abstractmethod
    async def _leave_group(self) -> None:
        """With nothing held any more."""


class KafkaHanded(Handed):
    def __init__(self, intake: KafkaIntake, source: Source, message: Message, again: bool, origin: Any) -> None:
        self.message = message
        self.again = again
        self.at = time.monotonic()
        self.origin = origin
        """What its source knows it by."""
        self._intake = intake
        self._source = source

    @property
    def is_held(self) -> bool:
        return self._intake.holds(self)

    def settle(self) -> None:
        if self._intake.forget(self):
            self._source.settle(self)

    def give_back(self) -> None:
        if self._intake.forget(self):
            self._source.give_back(self)

    def lose(self) -> None:
        """Its partition is another's now."""
        if self._intake.forget(self):
            self._intake.tell_lost(self)


class KafkaIntake(Intake):
    """Joins its process's member of a group when it is first asked for something."""

    def __init__(self, join: Callable[[KafkaIntake], Source], concurrency: int) -> None:
        self._join = join
        self._concurrency = concurrency
        self._source: Source | None = None
        self._arrived: deque[KafkaHanded] = deque()
        self._unsettled: set[KafkaHanded] = set()
        self._is_stopped = False
        self._ended: BrokerUnavailable | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def has_room(self) -> bool:
        return not self._is_stopped and self._ended is None and len(self._unsettled) < self._concurrency

    async def __anext__(self) -> Handed:
        if self._source is None and not self._is_stopped:
            self._source = self._join(self)
        while not self._arrived:
            if self._is_stopped:
                raise StopAsyncIteration
            if self._ended:
                raise self._ended
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._arrived.popleft()

    def stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            while self._arrived:
                self._arrived.popleft().give_back()
            self._wake()

    async def aclose(self) -> None:
        self.stop()
        for handed in tuple(self._unsettled):
            handed.give_back()
        if self._source is not None:
            await self._source.leave(self)

    def arrive(self, handed: KafkaHanded) -> None:
        self._unsettled.add(handed)
        self._arrived.append(handed)
        self._wake()

    def holds(self, handed: KafkaHanded) -> bool:
        return handed in self._unsettled

    def forget(self, handed: KafkaHanded) -> bool:
        """False where it was settled before, or is another's."""
        if handed not in self._unsettled:
            return False
        self._unsettled.remove(handed)
        return True

    def tell_lost(self, handed: KafkaHanded) -> None:
        if handed in self._arrived:
            self._arrived.remove(handed)  # Nobody knows of it yet.
        else:
            self.on_lost(handed)

    def end(self, reason: BrokerUnavailable) -> None:
        self._ended = reason
        self._arrived.clear()
        self._unsettled.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
