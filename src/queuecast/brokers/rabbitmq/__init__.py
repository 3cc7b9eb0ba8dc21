"""The driver of RabbitMQ. The only package that imports pika."""

from .driver import RabbitDriver

__all__ = ["RabbitDriver"]
