"""The gateway: submit, status and streams over HTTP."""

from .app import Gateway, StreamResponse

__all__ = ["Gateway", "StreamResponse"]
