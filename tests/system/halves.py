"""The two halves of an application, each a process of its own."""

import asyncio
from collections import Counter

from servers.ports import free_port

from .client import Gateways


class Halves:
    """A gateway and a worker that come and go; clients know only whether there is a gateway."""

    def __init__(self, machine):
        self.gateways = Gateways()
        self.port = free_port()
        self.kills = Counter()
        self._machine = machine
        self._halves = {}

    async def start(self, *names):
        for name in names:
            start = {"gateway": lambda: self._machine.gateway(self.port), "worker": self._machine.worker}[name]
            self._halves[name] = start()
        if "gateway" in names:
            await asyncio.to_thread(self._halves["gateway"].ready)
            self.gateways.up(self.port)

    def kill(self, *names):
        for name in names:
            self._halves[name].kill()
            self.kills[name] += 1
        if "gateway" in names:
            self.gateways.down(self.port)
