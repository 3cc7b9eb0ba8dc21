"""The driver of Kafka. The only package that imports confluent_kafka."""

from .driver import KafkaDriver

__all__ = ["KafkaDriver"]
