"""The demo, served on a port of its own, with its worker in the same process and small samples."""

import asyncio
import os
import threading

import pytest
import uvicorn

from queuecast.demo import samples
from queuecast.demo.folder import FOLDER

SECONDS = 20
"""A failure bound for the server's start and end."""


class Site:
    """Where it listens, and how often its worker was killed."""

    def __init__(self, folder):
        self.folder = folder
        self.url = ""
        self.kills = 0

    def kill_worker(self):
        self.kills += 1


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "ROWS", 2_000)
        patch.setattr(samples, "PICTURES", 4)
        folder = tmp_path_factory.mktemp("demo")
        patch.setenv(FOLDER, str(folder))
        samples.prepare()
        yield from _served(Site(folder))


def _served(site):
    server = None
    ready = threading.Event()

    async def serve():
        nonlocal server
        from queuecast.demo.app import qc
        from queuecast.demo.web import make_app

        qc.use(f"sqlite:///{site.folder}/demo.db?sync=normal")
        app = make_app(qc, site.kill_worker)
        config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = _Server(config, ready)
        async with qc.running(worker=True):
            await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="demo site")
    thread.start()
    try:
        assert ready.wait(SECONDS), "the site did not start"
        site.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield site
    finally:
        if server is not None:
            server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive(), "the site did not stop"


class _Server(uvicorn.Server):
    def __init__(self, config, ready):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self._ready.set()


@pytest.fixture(autouse=True)
def no_proxy():
    """Requests of these tests go to this machine, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield
