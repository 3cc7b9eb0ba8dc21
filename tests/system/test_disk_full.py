"""A full disk: new tasks are refused, everything else goes on, and what was accepted or done is not lost."""

import asyncio
import errno
import os
import subprocess
import sys

import pytest
from servers.ports import free_port

from .client import Gateways, Work, request
from .load import Load
from .processes import Machine
from .verdict import pronounce

DISK_BYTES = 16 << 20

BLOCK = b"\0" * (256 << 10)

MANY = 100_000
"""More tasks than the room that SQLite holds already could take."""


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk, and only on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this machine does not let root mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def machine(disk, tmp_path):
    machine = Machine(tmp_path, f"sqlite:///{disk}/work.db")
    yield machine
    machine.clean_up()


class Ballast:
    """A file that takes up all the room there is."""

    def __init__(self, disk):
        self._file = disk / "ballast"

    def fill(self):
        with self._file.open("ab", buffering=0) as file:
            try:
                while file.write(BLOCK):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def drop(self):
        self._file.unlink()


@pytest.mark.bound(90)
async def test_a_full_disk_refuses_new_tasks_and_loses_nothing(machine, disk):
    gateways = Gateways()
    load = Load(gateways)
    port = free_port()
    gateway, worker = machine.gateway(port), machine.worker()
    await asyncio.to_thread(gateway.ready)
    await asyncio.to_thread(worker.ready)
    gateways.up(port)
    os.mkfifo(gate := machine.folder / "gate")
    ballast = Ballast(disk)
    async with load.reading():
        held = await load.submitter.submit(Work("reports", "held", 0, str(gate)))
        await load.overall.until(lambda: load.overall.events and load.overall.events[-1].get("run"))

        ballast.fill()
        refused = await submit_until_refused(port, load.submitter.accepted)
        assert refused.body["type"] == "urn:queuecast:problem:storage-full", refused
        assert int(refused.headers["retry-after"]) > 0

        # What is running comes to its end, and cannot say so yet.
        tries = len(worker.err.all)
        await asyncio.to_thread(gate.write_text, "go on")
        await asyncio.to_thread(worker.err.wait_for, "disk is full", tries)
        status = await request(port, "GET", f"/queues/reports/tasks/{held}")
        assert (status.status, status.body["state"]) == (200, "running")
        assert (await request(port, "GET", "/livez")).status == 200

        ballast.drop()
        await load.submitter.submit(Work("tokens", "streaming", MANY))
    assert all(reader.connections == 1 for reader in load.readers)
    await pronounce(machine, load, port, kills=0)


async def submit_until_refused(port, accepted):
    """What SQLite has room for in its own files is taken, and kept."""
    for number in range(1, MANY):
        work = Work("reports", "awaited", number)
        answer = await request(port, "POST", "/queues/reports/tasks", work.body)
        if answer.status != 202:
            return answer
        accepted[answer.body["id"]] = work
    raise AssertionError("nothing was refused")
