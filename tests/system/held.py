"""A task that a worker holds until its gate is opened, and somebody who follows it."""

import asyncio
import os
from contextlib import suppress

from .client import PAUSE_SECONDS, Work
from .halves import Halves
from .load import Load


class Held:
    """`first` is the worker, which comes to its broker by this URL; the gateway and its relief do as others do."""

    def __init__(self, machine, broker):
        self.machine = machine
        self.halves = Halves(machine)
        self.load = Load(self.halves.gateways)
        self.first = machine.worker(broker=broker)
        self.id = ""
        self._gate = machine.folder / "gate"
        os.mkfifo(self._gate)

    async def begin(self):
        await self.halves.start("gateway")
        await asyncio.to_thread(self.first.ready)
        self.id = await self.load.submitter.submit(Work("reports", "held", 1, str(self._gate)))
        await self.has_begun(1)

    async def has_begun(self, times):
        """So many runs are shown, and the handler is at work in the last of them."""
        await self.load.overall.until(lambda: len(self.runs()) == times)
        while self.begun() < times:
            await asyncio.sleep(PAUSE_SECONDS)

    def begun(self):
        return [id for id, _ in self.machine.witnessed()].count(self.id)

    def runs(self):
        return {event["run"] for event in self.load.overall.events if event["id"] == self.id and event.get("run")}

    async def relieve(self):
        """By a worker that reaches the server."""
        await asyncio.to_thread(self.machine.worker().ready)

    def let_go(self):
        """All who wait at the gate, and who comes to it later."""
        waiting, opened = self._gate.with_suffix(".waiting"), self._gate.with_suffix(".opened")
        opened.write_text("go on")
        waiting.hardlink_to(self._gate)
        opened.replace(self._gate)
        with suppress(OSError):  # nobody waits yet
            os.close(os.open(waiting, os.O_WRONLY | os.O_NONBLOCK))

    async def is_over(self):
        await self.load.overall.until(lambda: self.load.overall.results[self.id])

    async def next_one(self):
        """What was handed out again has been dealt with before it: the queue keeps its order."""
        await self.load.submitter.submit(Work("reports", "awaited", 2))
        await self.load.has_ended_what_was_accepted()
