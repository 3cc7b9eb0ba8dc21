"""Where the demo lives: one folder with its database, its samples and the files its handlers write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FOLDER: Final = "QUEUECAST_DEMO_FOLDER"
"""The environment variable that names the folder; the command line sets it for the processes it starts."""


def folder() -> Path:
    return Path(os.environ.get(FOLDER, "queuecast-demo")).absolute()


def samples() -> Path:
    return folder() / "samples"


def files() -> Path:
    """What the handlers write, and the page offers for download."""
    return folder() / "files"


def new_file(*parts: str) -> Path:
    """A place among the files for a task's outcome; a later run of the same task writes the same one."""
    path = files().joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def given(path: str) -> Path:
    """A path as somebody typed it into a form. Raises `FileNotFoundError` when nothing is there."""
    found = Path(path.strip()).expanduser()
    if not path.strip() or not found.exists():
        raise FileNotFoundError(f"there is no file or folder {path.strip()!r} on the worker's machine")
    return found
