"""Kafka alone, by confluent-kafka: what any system on it can reach at most, and has to wait for at least.

Run as a program, `python -m peers.raw_kafka HOST:PORT` is the worker: it answers to the topic named in a header.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lib import kafka, proc

TASKS, ANSWERS = "noop", "answers"
BODY = b'{"name":"noop","args":{}}'
RECORD = b"x" * 100
PATIENCE = 30.0  # seconds for one record
GROUP = {"auto.offset.reset": "earliest", "enable.auto.commit": False}


def rates(address: str, records: int) -> dict[str, float]:
    """Idempotent, acks=all, a report for each record, one partition; then read again."""
    topic = "records"
    kafka.make(address, topic)
    return {"produced_per_s": records / _produce(address, topic, records), **_consume(address, topic, records)}


def _produce(address: str, topic: str, records: int) -> float:
    producer, reports = _producer(address), []
    producer.produce(topic, RECORD)  # the first one waits for the producer's id
    producer.flush()
    began = time.perf_counter()
    for _ in range(records):
        while True:
            try:
                producer.produce(topic, RECORD, on_delivery=lambda error, _: reports.append(error))
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    producer.flush()
    took = time.perf_counter() - began
    if len(reports) != records or any(reports):
        raise RuntimeError("some of it was not confirmed")
    return took


def _consume(address: str, topic: str, records: int) -> dict[str, float]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "raw", **GROUP})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        taken = len(consumer.consume(1, PATIENCE))
        began = time.perf_counter()
        while taken < records:
            taken += len(consumer.consume(1_000, 0.1))
        return {"consumed_per_s": records / (time.perf_counter() - began)}
    finally:
        consumer.close()


@contextlib.contextmanager
def round_trip(folder: Path) -> Iterator[Callable[[], float]]:
    """A record to a plain worker, and its answer; acks=all both ways, nothing committed."""
    proc.need("confluent_kafka")
    with kafka.node(folder, None) as address:
        kafka.make(address, TASKS, ANSWERS)
        worker = proc.python("-m", "peers.raw_kafka", address)
        with (
            proc.running(worker, cpu=None, cwd=proc.BENCH, log=folder / "worker.log"),
            _follow(address, ANSWERS) as come,
        ):
            producer = _producer(address)

            def once() -> float:
                began = time.perf_counter()
                producer.produce(TASKS, BODY, headers={"reply": ANSWERS})
                producer.poll(0)
                come(PATIENCE)
                return (time.perf_counter() - began) * 1000

            yield once


@contextlib.contextmanager
def _follow(address: str, topic: str) -> Iterator[Callable[[float], bytes]]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "raw", **GROUP})
    consumer.assign([TopicPartition(topic, 0, 0)])

    def take(patience: float) -> bytes:
        record = consumer.poll(patience)
        if record is None or record.error():
            raise TimeoutError(f"no record within {patience:g} s")
        return record.value()

    try:
        yield take
    finally:
        consumer.close()


def _producer(address: str):
    from confluent_kafka import Producer

    return Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 0})


def _work(address: str) -> None:
    producer = _producer(address)
    with _follow(address, TASKS) as come:
        while True:
            body = come(3_600.0)
            producer.produce(ANSWERS, body)
            producer.poll(0)


if __name__ == "__main__":
    _work(sys.argv[1])
