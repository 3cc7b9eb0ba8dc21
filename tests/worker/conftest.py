"""Applications on every backend, and short waits."""

import pytest
from working import BACKENDS, url_of

from queuecast import Queuecast, retry
from queuecast.worker import children, worker

from . import handlers


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path):
    return url_of(request.param, tmp_path)


@pytest.fixture
def app(url, cleanup):
    app = Queuecast(url)
    cleanup.push_async_callback(app.close)
    return app


@pytest.fixture
def queue(app):
    return app.queue("reports")


@pytest.fixture
def processes(url, cleanup):
    """The application whose handlers other processes can import."""
    handlers.app.use(url)
    cleanup.push_async_callback(handlers.app.close)
    return handlers.app


@pytest.fixture
def at_once(monkeypatch):
    """A retry comes at once."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


@pytest.fixture
def short_graces(monkeypatch):
    """A child that does not end is killed soon; a thread that does not is left behind soon."""
    monkeypatch.setattr(children, "KILL_GRACE", 0.3)
    monkeypatch.setattr(worker, "KILL_PATIENCE", 0.6)
    monkeypatch.setattr(worker, "LEAVE_PATIENCE", 0.1)
