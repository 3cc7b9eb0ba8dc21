"""A server that many tests use one after the other, as each would like to find it."""

import functools

import pika
from confluent_kafka.admin import AdminClient

from .waiting import wait_until

OURS = ("_qc.control", "_qc.dead")
LEVELS = 40
"""More than there are levels of delay."""


def cleaned(url, queues):
    """The URL, once everything is deleted that tests of these queues leave behind.

    Over AMQP alone, so that any server will do, also one in a container.
    """
    _without_what_is_delayed(url)
    names = [*OURS, *queues]
    names += [f"_qc.{kind}.{queue}" for queue in queues for kind in ("events", "replies")]
    _delete(url, names)
    return url.rstrip("/")


@functools.cache
def _without_what_is_delayed(url):
    """Tasks of an earlier run that are due in an hour. Once for a run of the tests: it takes half a second."""
    _delete(url, [f"_qc.delay.{level}" for level in range(LEVELS)])


def _delete(url, names):
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_delete(name)


def cleaned_kafka(address, queues):
    """The URL of a Kafka, once everything is deleted that tests of these queues leave behind."""
    names = {*OURS, "_qc.delay", "_qc.watermarks", *queues}
    names |= {f"_qc.{kind}.{queue}" for queue in queues for kind in ("events", "replies")}
    admin = AdminClient({"bootstrap.servers": address})
    left = names.intersection(admin.list_topics(timeout=10).topics)
    if left:
        for deleted in admin.delete_topics(sorted(left)).values():
            deleted.result()
        wait_until(
            lambda: not left.intersection(admin.list_topics(timeout=10).topics), "topics are not deleted", seconds=20
        )
    return f"kafka://{address}"
