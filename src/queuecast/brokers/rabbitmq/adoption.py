"""Declaring queues, and taking over those that are there already, where they keep what is put into them.

AMQP tells nothing about an existing queue but what differs from a declaration, one argument at a time. So a declaration
is repeated with what the server said, until it agrees or something shows that loses messages. A policy is never seen.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ...errors import BrokerUnavailable, ConfigurationError
from .faults import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED, Refused
from .link import Link

logger = logging.getLogger(__name__)

MAX_ARGUMENTS: Final = 24
"""Arguments of a foreign queue that are asked for. One with more is taken as it is."""

START_SECONDS: Final = 5.0
"""Seconds that a queue which is there may take to be up, as when its server has just started. Then the server's word
that it is not is believed: `BrokerUnavailable`.
"""

AGAIN_SECONDS: Final = 0.1
"""Seconds between two looks whether it is up."""

TYPE: Final = "x-queue-type"

_DIFFERENCE: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*but current is (?:the value )?"
    r"(?:'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?|(?P<none>none))\s*$"
)

_LOSES: Final = {
    "x-message-ttl": "its messages expire",
    "x-expires": "it is deleted when nobody uses it for a while",
    "auto_delete": "it is deleted with its last consumer",
    "exclusive": "it is deleted with its owner's connection",
}
_BOUNDS: Final = ("x-max-length", "x-max-length-bytes")
_KEEPING: Final = ("reject-publish", "reject-publish-dlx")


async def declare_queue(link: Link, name: str, queue_type: str | None) -> None:
    """A durable queue for tasks or replies: made, or adopted as it is.

    Raises `ConfigurationError` for one that would lose messages, `BrokerUnavailable`.
    """
    arguments = await _adopt(link, name, {TYPE: queue_type} if queue_type else {}, fault_for_tasks)
    bound = next((bound for bound in _BOUNDS if bound in arguments), None)
    if bound and arguments.get("x-overflow") not in _KEEPING:
        said = f"{bound} is {arguments[bound]}, x-overflow is {arguments.get('x-overflow', 'drop-head')}"
        raise unfit(name, "it drops messages when it is full", said)


async def declare_stream(link: Link, name: str, arguments: Mapping[str, Any]) -> None:
    """A log. One that is there already keeps its own retention. Raises `ConfigurationError`, `BrokerUnavailable`."""
    await _adopt(link, name, {TYPE: "stream", **arguments}, fault_for_events)


async def _adopt(
    link: Link, name: str, arguments: Mapping[str, Any], fault_of: Callable[[str, Any], str | None]
) -> Mapping[str, Any]:
    """The arguments that the queue has, as far as the server tells them."""
    found = dict(arguments)
    for _ in range(MAX_ARGUMENTS):
        refusal = await _declare(link, name, found)
        if refusal is None:
            break
        difference = difference_in(refusal.text)
        if difference is None:
            logger.warning("%s is used as it is; RabbitMQ says of it: %s", name, refusal.text)
            break
        argument, value = difference
        if fault := fault_of(argument, value):
            raise unfit(name, fault, refusal.text)
        if value is None:
            found.pop(argument, None)
        else:
            found[argument] = value
    return found


def difference_in(text: str) -> tuple[str, Any] | None:
    """The argument in which a queue differs from its declaration and its value there, as a 406 tells them."""
    found = _DIFFERENCE.search(text)
    if found is None:
        return None
    value: Any = found["value"]
    if (found["type"] and "int" in found["type"]) or found["type"] in ("long", "short", "byte"):
        value = int(value)
    elif found["type"] == "bool" or (value in ("true", "false") and not found["type"]):
        value = value == "true"
    return found["name"], value


def fault_for_tasks(argument: str, value: Any) -> str | None:
    """Why a queue with this argument is no place for tasks."""
    if argument == "durable" and not value:
        return "it does not survive a restart of RabbitMQ (it is not durable)"
    if argument == TYPE and value == "stream":
        return "it is a stream, which hands every message to everybody"
    return _LOSES.get(argument) if value not in (None, False) else None


def fault_for_events(argument: str, value: Any) -> str | None:
    """Why something with this argument is no log."""
    return "it must be a stream" if argument == TYPE and value != "stream" else None


def unfit(name: str, fault: str, said: str) -> ConfigurationError:
    return ConfigurationError(
        f"the queue {name} cannot be used: {fault}. Delete it, or declare it as queuecast does, or use another name or"
        f" virtual host. RabbitMQ says: {said}"
    )


async def _declare(link: Link, name: str, arguments: Mapping[str, Any]) -> Refused | None:
    """The refusal, where it is about what is there already."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return await _declare_now(link, name, arguments)
        except Refused as refusal:
            if refusal.code != NOT_FOUND or time.monotonic() > until:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


async def _declare_now(link: Link, name: str, arguments: Mapping[str, Any]) -> Refused | None:
    """On a channel of its own, because a refusal closes it."""
    channel = await link.channel()
    try:
        await channel.ask(channel.raw.queue_declare, queue=name, durable=True, arguments=dict(arguments))
    except Refused as refusal:
        if refusal.code == PRECONDITION_FAILED:
            return refusal
        if refusal.code == RESOURCE_LOCKED:
            raise unfit(name, _LOSES["exclusive"], refusal.text) from None
        raise not_permitted(refusal) from None
    finally:
        await channel.close()
    return None


def not_permitted(refusal: Refused) -> BrokerUnavailable | ConfigurationError:
    """What a refusal means for the user."""
    if refusal.code == ACCESS_REFUSED:
        return ConfigurationError(
            "this user of RabbitMQ needs the permissions to configure, write and read what queuecast declares"
            f" (`rabbitmqctl set_permissions`). RabbitMQ says: {refusal.text}"
        )
    return refusal
