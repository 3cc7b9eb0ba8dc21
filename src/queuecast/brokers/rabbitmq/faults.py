"""What pika and the server say, in the family of our own errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from pika import exceptions

from ...errors import BrokerUnavailable, ConfigurationError, QueuecastError


class Refused(BrokerUnavailable):
    """The server has closed a channel, with a code (AMQP 0-9-1, section 1.2) and its reason."""

    def __init__(self, code: int, text: str) -> None:
        advice = "; see `rabbitmqctl set_permissions`" if code == ACCESS_REFUSED else ""
        super().__init__(f"RabbitMQ refused: {text}{advice}")
        self.code = code
        self.text = text


NOT_ALLOWED = 530
ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406


def why_closed(error: object) -> BrokerUnavailable:
    """Of a channel or a connection that had been open."""
    if isinstance(error, BrokerUnavailable):
        return error
    if isinstance(error, exceptions.ChannelClosedByBroker):
        return Refused(error.reply_code, error.reply_text)
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return BrokerUnavailable(f"RabbitMQ has closed the connection: {error.reply_text}")
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return BrokerUnavailable("RabbitMQ is silent: the connection was given up")
    if isinstance(error, (exceptions.ConnectionWrongStateError, exceptions.ChannelWrongStateError)):
        return BrokerUnavailable("the connection to RabbitMQ is lost")
    return BrokerUnavailable(f"the connection to RabbitMQ is lost: {error}")


def why_not_connected(error: BaseException, server: str) -> QueuecastError:
    """`ConfigurationError` where trying again cannot help."""
    for cause in _causes(error):
        if isinstance(cause, (exceptions.ProbableAuthenticationError, exceptions.AuthenticationError)):
            return ConfigurationError(
                f"{server} refuses this user or password: check the URL (the user guest may only come from localhost)"
            )
        if isinstance(cause, exceptions.ProbableAccessDeniedError):
            return ConfigurationError(
                f"{server} does not let this user into this virtual host ({_text(cause)}): check the URL's path, or"
                f" `rabbitmqctl add_vhost` and `rabbitmqctl set_permissions`"
            )
        if isinstance(cause, exceptions.IncompatibleProtocolError):
            return ConfigurationError(f"{server} does not speak AMQP 0-9-1: check the port, and whether it wants TLS")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigurationError(f"{server} is not trusted: {cause.verify_message}; see ssl_options in the URL")
    *_, last = _causes(error)
    return BrokerUnavailable(f"{server} cannot be reached: {_text(last)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it wraps."""
    yield error
    for wrapped in (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args):
        if isinstance(wrapped, BaseException):
            yield from _causes(wrapped)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
