"""All that must hold once everything has come to rest, whatever was killed before."""

import json
import sqlite3
from contextlib import closing

from .checker import flaws_of_log, flaws_of_stream, flaws_of_witness
from .client import request, whole_log
from .workload import QUEUES


async def pronounce(machine, load, port, *, kills):
    """The log is read anew through this gateway, and once more out of the file. `kills`: of workers."""
    logs = {queue: await whole_log(port, queue) for queue in QUEUES}
    log = [event for reader in logs.values() for event in reader.events]
    accepted = load.submitter.accepted
    assert load.submitter.refusals == []
    assert flaws_of_log(log, accepted) == []
    assert flaws_of_witness(machine.witnessed(), accepted, kills=kills) == []
    assert in_the_file(machine) == log
    for reader in load.readers:
        assert flaws_of_stream(reader.events, [event for event in log if event["queue"] in reader.queues]) == [], reader
        assert reader.resets == []
        assert len(set(reader.ids)) == len(reader.ids)
        if len(reader.queues) == 1:
            assert reader.ids == logs[reader.queues[0]].ids
    assert await counted(port) == {"succeeded": len(accepted)}


def in_the_file(machine):
    """The log as SQLite has it, queue by queue."""
    with closing(sqlite3.connect(f"file:{machine.database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT queue, body FROM events ORDER BY offset").fetchall()
    return [json.loads(body) for queue in QUEUES for name, body in rows if name == queue]


async def counted(port):
    """How many tasks the overview counts in each state, in all queues."""
    total = {}
    for queue in (await request(port, "GET", "/queues")).body["queues"]:
        for state, number in queue["counts"].items():
            total[state] = total.get(state, 0) + number
    return total
