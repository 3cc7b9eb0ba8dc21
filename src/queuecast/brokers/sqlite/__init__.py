"""The embedded broker: one SQLite file, no server, any number of processes of one machine.

Read in this order: `database` (the tables), `ledger` (one transaction: every event through the fold), `operations`
(what a transaction is asked to do), `writer` (the one thread of a process that writes), `peers` (how processes wake
each other and notice a death), `reads`, and `broker`, the asyncio face of it all.
"""

from .broker import SQLiteBroker

__all__ = ["SQLiteBroker"]
