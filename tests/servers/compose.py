"""The same servers in containers, by compose.yaml: for machines on which they cannot be installed."""

import subprocess
from pathlib import Path

from .install import run

FOLDER = Path(__file__).parents[2]
"""Where compose.yaml is."""

ASK_SECONDS = 20
"""A failure bound for Docker's answer whether it is there."""


def missing():
    """Why Docker Compose cannot be used here, or None if it can."""
    try:
        done = subprocess.run(
            ["docker", "compose", "ps"],
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "Docker is not installed"
    except subprocess.TimeoutExpired:
        return f"Docker does not answer within {ASK_SECONDS} s"
    said = (done.stderr.strip() or "it does not say why").splitlines()[0]
    return f"Docker Compose does not work here ({said})" if done.returncode else None


def start(service):
    _compose("up", "--detach", service)


def stop(service):
    """End it, and forget its data."""
    _compose("rm", "--force", "--stop", "--volumes", service)


def log(service):
    return _compose("logs", "--no-color", "--tail", "60", service)


def _compose(*arguments):
    return run(["docker", "compose", *arguments], folder=FOLDER)
