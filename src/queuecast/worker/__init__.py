"""The worker: consumes queues, runs handlers, and tells each queue's log what happens."""

from .worker import Worker

__all__ = ["Worker"]
