"""queuecast: tasks on named queues, and every client of a queue sees their progress and results at once."""

from .app import Principal, Queuecast
from .context import Context
from .errors import (
    AttemptRestarted,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    InvalidInput,
    KeyReused,
    OutcomeUnknown,
    QueuecastError,
    ResetRequired,
    ResultExpired,
    TaskCancelled,
    TaskFailed,
    TooLarge,
    UnknownTaskName,
)
from .event import Event, OutputEvent, ResultEvent, TaskEvent, TaskInfo
from .handler import Handler
from .queue import Queue
from .ref import TaskRef

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped, so that it reads as a table of contents
    # The application
    "Queuecast",
    "Queue",
    "Handler",
    "TaskRef",
    "Context",
    "Principal",
    # Events
    "Event",
    "TaskEvent",
    "OutputEvent",
    "ResultEvent",
    "TaskInfo",
    # Errors
    "QueuecastError",
    "ConfigurationError",
    "InvalidInput",
    "UnknownTaskName",
    "TooLarge",
    "KeyReused",
    "BrokerError",
    "BrokerUnavailable",
    "OutcomeUnknown",
    "TaskFailed",
    "TaskCancelled",
    "ResultExpired",
    "AttemptRestarted",
    "ResetRequired",
]
