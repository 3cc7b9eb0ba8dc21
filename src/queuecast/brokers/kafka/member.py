"""This process as a member of a group: the partitions it is given, and who here gets what is in them.

A thread keeps polling whatever the tasks do, so that none of them is taken away for being long. A record is handed out
only once a commit has told that it may be: whoever has its partition next knows then what may have begun already, and a
member that was put out of the group without knowing it can hand out nothing new, because its commits are refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from ...errors import BrokerError, BrokerUnavailable
from ..folded.wire import AGAIN, Message
from . import faults
from .finished import Finished, Told, read
from .headers import from_kafka
from .intake import KafkaHanded, KafkaIntake, Source
from .share import Record, Share
from .watermarks import Commit, Watermarks

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
"""How long the thread waits for records before it looks what else there is to do."""

BATCH: Final = 500
"""Records that are taken from the client at once."""

CLAIM: Final = 1_000
"""Offsets beyond what has arrived that a commit allows to hand out. After a crash so many are looked up in the log."""

COMMIT_SECONDS: Final = 0.5
"""How often it is committed what is finished."""

GRACE_SECONDS: Final = 1.0
"""How long a partition that goes to another member waits here for what is held of it, so that short tasks run once."""

KEEP_SECONDS: Final = 5.0
"""How often what is finished is written down and deleted."""

ANSWER_SECONDS: Final = 10.0
"""Seconds for the group's coordinator to answer."""

LOOK_UP_SECONDS: Final = 40.0
"""Seconds to find what was kept of partitions: about as long as a cluster may take to find itself again."""

CLOSING_SECONDS: Final = 0.2
"""How often a thread that waits for the event loop looks whether all is over."""

LOW_SECONDS: Final = 1.0
"""Seconds for the leader of a partition to tell where it begins."""

AGAIN_SECONDS: Final = 1.0
"""Seconds before the group is joined again after that has failed."""

BUFFER_KB: Final = 4_096
"""Kilobytes that a client fetches ahead of what was taken from it."""

T = TypeVar("T")

Partitions: TypeAlias = list[TopicPartition]

Ready = Callable[[Message], float]
"""The POSIX time at which a message is to be handed out; 0 for at once."""


class _Place(NamedTuple):
    """Where something that was handed out came from."""

    share: Share
    record: Record


class Member(Source):
    """Belongs to one event loop."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        watermarks: Watermarks,
        topic: str,
        ready: Ready,
        on_left: Callable[[], object],
    ) -> None:
        super().__init__(on_left)
        self._settings = {
            **settings,
            "group.id": group_of(topic),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "queued.min.messages": BATCH,
            "queued.max.messages.kbytes": BUFFER_KB,
            "fetch.queue.backoff.ms": 10,
            "allow.auto.create.topics": False,
            "on_commit": self._look_at_commit,
            "logger": logger,
        }
        self._watermarks = watermarks
        self._topic = topic
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Condition(threading.RLock())
        self._shares: dict[int, Share] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._consumer: Consumer | None = None
        self._failure: Exception | None = None
        """Why partitions could not be moved."""
        self._moves = 0
        """How often partitions came or went."""
        self._commits: dict[int, Commit] = {}
        """What the group was told last of each partition."""
        self._kept: dict[int, Commit] = {}
        self._closing = False
        self._keeping = asyncio.create_task(self._keep_now_and_then(), name=f"queuecast watermarks {topic}")
        self._thread = threading.Thread(target=self._run, name=f"queuecast kafka {topic}", daemon=True)
        self._thread.start()

    # Those who take

    async def _leave_group(self) -> None:
        with self._lock:
            for share in self._shares.values():
                share.held.clear()
        self._closing = True
        self._keeping.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._thread.join)
        await self._keep()

    def settle(self, handed: KafkaHanded) -> None:
        share, record = handed.origin
        with self._lock:
            if not share.is_gone:
                share.settle(record.offset)
                self._lock.notify_all()
        self._deal()

    def give_back(self, handed: KafkaHanded) -> None:
        share, record = handed.origin
        with self._lock:
            if not share.is_gone:
                share.give_back(record)
                self._lock.notify_all()
        # Not at once: whoever gives back in order to stop is to have stopped by then.
        self._loop.call_soon(self._deal)

    # Handing out

    def _deal(self) -> None:
        with self._lock:
            now = time.time()
            while (intake := self._with_room()) is not None:
                share, ready = self._next()
                if share is None or ready > now:
                    self._look_again_at(ready)
                    break
                record = share.pop()
                handed = KafkaHanded(intake, self, record.message, record.again, _Place(share, record))
                share.held[record.offset] = handed
                intake.arrive(handed)

    def _with_room(self) -> KafkaIntake | None:
        """In turn."""
        for place, intake in enumerate(self._intakes):
            if intake.has_room:
                self._intakes.append(self._intakes.pop(place))
                return intake
        return None

    def _next(self) -> tuple[Share | None, float]:
        """Where the oldest record is that is ready first; and when it is."""
        found, best = None, (inf, inf)
        for share in self._shares.values():
            record = share.head()
            if record is not None and (record.ready, record.timestamp) < best:
                found, best = share, (record.ready, record.timestamp)
        return found, best[0]

    def _look_again_at(self, ready: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if ready < inf and not self._closing:
            self._timer = self._loop.call_later(max(0.0, ready - time.time()), self._deal)

    def _lose(self, shares: list[Share]) -> None:
        for share in shares:
            for handed in tuple(share.held.values()):
                handed.lose()

    # Keeping the watermarks

    async def _keep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            await self._keep()

    async def _keep(self) -> None:
        commits = {number: told for number, told in tuple(self._commits.items()) if self._kept.get(number) != told}
        if commits:
            try:
                await self._watermarks.keep(self._topic, commits)
                self._kept |= commits
            except BrokerError as error:
                logger.debug("how far %s is finished is not kept yet: %s", self._topic, error)

    # In the thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._consumer = Consumer(self._settings)
                self._failure = None
                self._consumer.subscribe(
                    [self._topic],
                    on_assign=partial(self._move, self._assigned),
                    on_revoke=partial(self._move, self._revoked),
                    on_lost=partial(self._move, self._lost),
                )
                self._poll(self._consumer)
            except Exception as error:  # whatever it is: without this thread nothing would be taken ever again
                expected = isinstance(error, KafkaException | BrokerError | TimeoutError | RuntimeError)
                why = faults.why(error)
                logger.warning("%s cannot be consumed, trying again: %s", self._topic, why, exc_info=not expected)
                self._give_up(list(self._shares.values()))
                time.sleep(AGAIN_SECONDS)
            finally:
                if self._consumer is not None:
                    with suppress(KafkaException, RuntimeError):
                        self._consumer.close()
                self._consumer = None

    def _poll(self, consumer: Consumer) -> None:
        committed_at = time.monotonic()
        while not self._closing:
            first = consumer.poll(POLL_SECONDS)
            if self._failure is not None:
                raise self._failure
            if first is not None:
                moves = self._moves
                # Not all at once: `consume` waits for as many as it was asked for.
                messages = [first, *consumer.consume(BATCH, 0)]
                if moves == self._moves:
                    self._receive(consumer, messages)
                else:
                    self._read_again(consumer)
            self._resume(consumer)
            if time.monotonic() >= committed_at + COMMIT_SECONDS:
                self._commit(consumer, self._changed(), asynchronous=True)
                committed_at = time.monotonic()

    def _receive(self, consumer: Consumer, messages: list[KafkaMessage]) -> None:
        arrived: dict[int, list[KafkaMessage]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                if faults.is_forbidden(error):
                    raise KafkaException(error)  # which is told with what to do
                logger.warning("a consumer of %s is told: %s", self._topic, error.str())
            else:
                arrived.setdefault(message.partition() or 0, []).append(message)
        for number, some in arrived.items():
            share = self._shares.get(number)
            if share is not None and self._claim(consumer, share, some):
                with self._lock:
                    for message in some:
                        share.take(self._record(share, message))
                    if share.has_many and not share.is_paused:
                        share.is_paused = True
                        consumer.pause([TopicPartition(self._topic, number)])
        self._call(self._deal)

    def _read_again(self, consumer: Consumer) -> None:
        """Of what has just arrived some may be from before a partition went and came back: it would seem that what lies
        between was passed over, and that would count as finished.
        """
        for share in self._shares.values():
            consumer.seek(TopicPartition(self._topic, share.number, share.next))

    def _resume(self, consumer: Consumer) -> None:
        with self._lock:
            ready = [share for share in self._shares.values() if share.is_paused and share.has_few]
            for share in ready:
                share.is_paused = False
                consumer.resume([TopicPartition(self._topic, share.number)])

    def _record(self, share: Share, message: KafkaMessage) -> Record:
        offset = message.offset() or 0
        unpacked = from_kafka(message.value(), message.headers())
        again = share.may_have_been_handed_out(offset) or AGAIN in unpacked.headers
        return Record(offset, self._ready(unpacked), message.timestamp()[1], unpacked, again)

    def _claim(self, consumer: Consumer, share: Share, messages: list[KafkaMessage]) -> bool:
        """Whether these may be handed out. Where that could not be told to the group, they are read again."""
        last = messages[-1].offset() or 0
        if last < share.reach:
            return True
        before, share.reach = share.reach, last + 1 + CLAIM
        if self._commit(consumer, [share]):
            return True
        share.reach = before
        consumer.seek(TopicPartition(self._topic, share.number, share.next))
        time.sleep(POLL_SECONDS)
        return False

    def _changed(self) -> list[Share]:
        with self._lock:
            return [share for share in self._shares.values() if share.is_changed]

    def _commit(self, consumer: Consumer, shares: list[Share], *, asynchronous: bool = False) -> bool:
        """Whether the group knows now what is finished; told later, that is not known."""
        if not shares:
            return True
        with self._lock:
            commits = {share.number: Commit(share.finished.before, share.told()) for share in shares}
        offsets = [TopicPartition(self._topic, number, *commit) for number, commit in commits.items()]
        try:
            if asynchronous:
                consumer.commit(offsets=offsets, asynchronous=True)
            elif any(answer.error for answer in consumer.commit(offsets=offsets, asynchronous=False)):
                return False
            self._commits |= commits
            return True
        except KafkaException as error:
            logger.debug("what is finished of %s is not committed: %s", self._topic, error)
            return False

    def _look_at_commit(self, error: KafkaError | None, partitions: Partitions) -> None:
        """At one that was told later: what it did not tell is for the next one."""
        if error is not None:
            logger.debug("what is finished of %s is not committed: %s", self._topic, error)
            with self._lock:
                for share in self._of(partitions):
                    share.is_changed = True

    def _move(self, move: Callable[[Consumer, Partitions], None], consumer: Consumer, partitions: Partitions) -> None:
        """Of partitions to this member or away. What is raised in here would leave `poll` as what nobody can catch."""
        try:
            move(consumer, partitions)
        except Exception as error:
            self._failure = error

    def _assigned(self, consumer: Consumer, partitions: Partitions) -> None:
        starts = []
        for number, commit in self._committed(consumer, partitions).items():
            low = self._low(consumer, number)
            told = Told(Finished(low), low) if commit is None else read(*commit)
            share = Share(number, told, low)
            starts.append(TopicPartition(self._topic, number, share.finished.before))
            with self._lock:
                self._shares[number] = share
        self._moves += 1
        consumer.incremental_assign(starts)

    def _low(self, consumer: Consumer, number: int) -> int:
        """The first offset that a partition has. One whose leader is gone must not hold up the others: what is before
        its first record is passed over when that comes.
        """
        try:
            return consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=LOW_SECONDS)[0]
        except KafkaException as error:
            logger.debug("where partition %d of %s begins is not known: %s", number, self._topic, error)
            return 0

    def _committed(self, consumer: Consumer, partitions: Partitions) -> dict[int, Commit | None]:
        found: dict[int, Commit | None] = {}
        for partition in consumer.committed(partitions, timeout=ANSWER_SECONDS):
            known = partition.offset >= 0
            found[partition.partition] = Commit(partition.offset, partition.metadata or "") if known else None
        if None in found.values():
            kept = self._look_up()
            found = {number: commit or kept.get(number) for number, commit in found.items()}
        return found

    def _look_up(self) -> dict[int, Commit]:
        """What was kept of partitions that the group knows nothing of. To give it up is to leave the group, and to let
        all its members move their partitions once more.
        """
        return in_loop(self._loop, self._watermarks.of(self._topic), LOOK_UP_SECONDS, lambda: self._closing)

    def _revoked(self, consumer: Consumer, partitions: Partitions) -> None:
        with self._lock:
            shares = self._of(partitions)
            for share in shares:
                share.close()
            self._lock.wait_for(lambda: not any(share.held for share in shares), GRACE_SECONDS)
        self._commit(consumer, shares)
        self._give_up(shares)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: Partitions) -> None:
        self._give_up(self._of(partitions))
        consumer.incremental_unassign(partitions)

    def _of(self, partitions: Partitions) -> list[Share]:
        return [share for each in partitions if (share := self._shares.get(each.partition)) is not None]

    def _give_up(self, shares: list[Share]) -> None:
        self._moves += 1
        with self._lock:
            for share in shares:
                share.is_gone = True
                del self._shares[share.number]
        self._call(self._lose, shares)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # The event loop has ended, and everybody in it.
            self._loop.call_soon_threadsafe(function, *arguments)


def in_loop(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], seconds: float, is_over: Callable[[], bool]
) -> T:
    """What it gives, for a thread that waits for it so long, or until all is over. Raises `BrokerUnavailable`, too."""
    working = asyncio.run_coroutine_threadsafe(work, loop)
    until = time.monotonic() + seconds
    while not working.done():
        if is_over() or time.monotonic() > until:
            working.cancel()
            raise BrokerUnavailable("Kafka does not answer")
        futures.wait([working], CLOSING_SECONDS)
    return working.result()


def group_of(topic: str) -> str:
    return f"queuecast.{topic}"
