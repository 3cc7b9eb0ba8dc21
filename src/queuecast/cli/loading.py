"""From `module:qc` on the command line to the application it names."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from ..app import Queuecast
from ..brokers import make_broker
from ..errors import ConfigurationError
from ..settings import Settings
from .exits import CommandError, Exit

logger = logging.getLogger(__name__)

OURS: Final = str(Path(__file__).parents[1])


def app_of(target: str | None, settings: Settings, broker: str | None) -> Queuecast:
    """The application that a command is about; without a target one that knows its queues from the broker alone.

    `broker`, from the command line, beats the program's own URL; that one beats environment and file, which stand in
    where the program names none.
    """
    if settings.broker is not None:
        # Here, so that a bad URL is not taken for a mistake of the program that is about to use it.
        make_broker(settings.broker)
        os.environ["QUEUECAST_BROKER"] = settings.broker
    app = load_app(target) if target is not None else Queuecast()
    if broker is not None:
        app.use(broker)
    if app.url.startswith("memory:"):
        raise ConfigurationError(
            "memory:// lives in one process, and gateway and worker are two: use sqlite:///work.db, or run the worker "
            "inside your own application with qc.running(worker=True)"
        )
    return app


def load_app(target: str) -> Queuecast:
    """Import it as the working directory sees it. Raises `CommandError` saying what is wrong with which name."""
    name, _, attribute = target.partition(":")
    module = _import(name)
    if not attribute:
        raise _refusal(f"{target!r} names a module and no application: write {_candidates(module)}")
    if not hasattr(module, attribute):
        raise _refusal(f"{name} has no {attribute!r}: {_hint(module, attribute)}")
    app = getattr(module, attribute)
    if not isinstance(app, Queuecast):
        raise _refusal(f"{target} is no Queuecast but of type {type(app).__name__}: write {_candidates(module)}")
    return app


def _import(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _refusal(f"there is no module {error.name!r} in {folder}: {_where(name)}") from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _where(name: str) -> str:
    if name.endswith(".py") or "/" in name:
        path = name.removesuffix(".py").replace("/", ".").strip(".")
        return f"give the module and not its file, as in {path}:qc"
    return "run the command in the folder that holds it"


def _broken(name: str, error: BaseException) -> CommandError:
    """Something the module does went wrong: say what and at which of its lines, and keep the rest for `debug`."""
    logger.debug("importing %s failed", name, exc_info=error)
    if isinstance(error, SyntaxError):
        return _refusal(f"importing {name} failed: {error}")
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if not _is_ours(frame.filename)), frames[-1])
    message = "".join(traceback.format_exception_only(error)).strip()
    return _refusal(f"importing {name} failed at {place.filename}, line {place.lineno}: {message}")


def _is_ours(filename: str) -> bool:
    return filename.startswith((OURS, "<frozen"))


def _hint(module: ModuleType, attribute: str) -> str:
    close = difflib.get_close_matches(attribute, _applications(module), n=1)
    return f"did you mean {module.__name__}:{close[0]}?" if close else f"write {_candidates(module)}"


def _candidates(module: ModuleType) -> str:
    found = [f"{module.__name__}:{name}" for name in _applications(module)]
    return " or ".join(found) or f"{module.__name__}:qc, after `qc = Queuecast()` in that module"


def _applications(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Queuecast)]


def _refusal(message: str) -> CommandError:
    return CommandError(message, Exit.STARTUP)
