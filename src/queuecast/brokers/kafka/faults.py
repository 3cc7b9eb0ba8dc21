"""What librdkafka and the brokers say, in the family of our own errors."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from ...errors import BrokerUnavailable, ConfigurationError, QueuecastError

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


def is_no_topic(error: KafkaError | None) -> bool:
    """It is about a topic that is not there, or not any more."""
    return error is not None and error.code() in _NO_TOPIC


def is_moving(error: KafkaError | None) -> bool:
    """A partition may get another leader, or its first one: somebody knows it soon."""
    return error is not None and error.code() in _MOVING


def is_already_there(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError.TOPIC_ALREADY_EXISTS


def why(error: KafkaError | BaseException | None) -> QueuecastError:
    """`ConfigurationError` where trying again cannot help, else `BrokerUnavailable`."""
    if isinstance(error, QueuecastError):
        return error
    if isinstance(error, BaseException):
        said = error_in(error)
        if said is None:
            return BrokerUnavailable(f"Kafka: {error}" if str(error) else "Kafka does not answer")
        error = said
    if error is None:
        return BrokerUnavailable("Kafka does not answer")
    if error.code() in _REFUSED:
        return ConfigurationError(f"Kafka refuses this user or password: check the URL. It says: {error.str()}")
    if error.code() in _FORBIDDEN:
        return ConfigurationError(
            "this user of Kafka needs ACLs to create, describe, read, write and trim the topics of its queues and those"
            f" that begin with _qc., and to read the groups queuecast.*. Kafka says: {error.str()}"
        )
    return BrokerUnavailable(f"Kafka: {error.str()}")


def unavailable(error: KafkaError | BaseException | None) -> BrokerUnavailable:
    """The same, where a task or an event is under way and a user's setting is no explanation."""
    reason = why(error)
    return reason if isinstance(reason, BrokerUnavailable) else BrokerUnavailable(str(reason))
