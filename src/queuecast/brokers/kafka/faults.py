"""What librdkafka and the brokers say, in the family of our own errors."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from ...errors import BrokerUnavailable, ConfigurationError, QueuecastError

ACLS: Final = (
    "this user of Kafka needs ACLs to create, describe, read, write and trim (Delete) the topics of its queues and"
    " those that begin with _qc., and to read the groups that begin with queuecast"
)

_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)

_FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)

_WHAT_HELPS: Final = {
    **dict.fromkeys(_REFUSED, "Kafka refuses this user or password: check the URL."),
    **dict.fromkeys(_FORBIDDEN, f"{ACLS}."),
    KafkaError._SSL: "no TLS with Kafka: check ssl.ca.location and security.protocol in the URL.",
}
"""Errors that trying again does not mend."""

_NO_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._NOENT,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
    }
)


_MOVING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NOT_CONTROLLER,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)


def error_in(exception: BaseException) -> KafkaError | None:
    found = exception.args[0] if isinstance(exception, KafkaException) and exception.args else None
    return found if isinstance(found, KafkaError) else None


def is_refusal(error: KafkaError) -> bool:
    """Of a user or a password."""
    return error.code() in _REFUSED


def is_forbidden(error: KafkaError) -> bool:
    """This user may not do it."""
    return error.code() in _FORBIDDEN


def forbidden(what: str) -> ConfigurationError:
    return ConfigurationError(f"{ACLS}. It may not {what}")


def is_no_topic(error: KafkaError | None) -> bool:
    """It is about a topic that is not there, or not any more."""
    return error is not None and error.code() in _NO_TOPIC


def is_moving(error: KafkaError | None) -> bool:
    """A partition may get another leader, or its first one, or the cluster a controller: somebody knows it soon."""
    return error is not None and error.code() in _MOVING


def is_already_there(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError.TOPIC_ALREADY_EXISTS


def why(error: KafkaError | BaseException | None) -> QueuecastError:
    """`ConfigurationError` where trying again cannot help, else `BrokerUnavailable`."""
    if isinstance(error, QueuecastError):
        return error
    said = error_in(error) if isinstance(error, BaseException) else error
    if said is None:
        return BrokerUnavailable(f"Kafka: {error}" if error is not None and str(error) else "Kafka does not answer")
    helps = _WHAT_HELPS.get(said.code())
    if helps is None:
        return BrokerUnavailable(f"Kafka: {said.str()}")
    return ConfigurationError(f"{helps} Kafka says: {said.str()}")


def unavailable(error: KafkaError | BaseException | None) -> BrokerUnavailable:
    """The same, where a task or an event is under way and a user's setting is no explanation."""
    reason = why(error)
    return reason if isinstance(reason, BrokerUnavailable) else BrokerUnavailable(str(reason))
