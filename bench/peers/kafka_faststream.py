"""FastStream's no-op task on Kafka, by confluent-kafka. What it publishes is confirmed by all replicas.

As a program it is the submitting half: `python -m peers.kafka_faststream TASKS` prints the seconds it took.
"""

import asyncio
import os
import sys
from pathlib import Path

from lib import callers, counted, kafka, proc

TOPIC = "faststream"
PARTITIONS = 12  # as many as queuecast makes
LIMIT = 300.0  # seconds that submitting may take
ACKS = {"first": "ACK_FIRST", "after": "ACK"}  # by the client itself now and then, or after each message


def measure(folder: Path, *, address: str, tasks: int, ack: str) -> dict[str, float]:
    """Submit all, then run all, each in a process of its own on the load's CPU; the broker has the other."""
    proc.need("faststream")
    kafka.make(address, TOPIC, partitions=PARTITIONS)
    env = {"BENCH_KAFKA": address, "BENCH_ACK": ACKS[ack], **counted.environment(folder, tasks)}
    log = folder / "submit.log"
    submit = proc.python("-m", "peers.kafka_faststream", str(tasks))
    with proc.running(submit, cpu=proc.LOAD_CPU, env=env, cwd=proc.BENCH, log=log) as process:
        code = process.popen.wait(LIMIT)
    if code:
        raise RuntimeError(f"submitting with FastStream ended with {code}: {process.tail()}")
    submitted = float(log.read_text().splitlines()[-1])
    worker = proc.python("-m", "faststream", "run", "peers.kafka_faststream:app")
    with proc.running(worker, cpu=proc.LOAD_CPU, env=env, cwd=proc.BENCH, log=folder / "worker.log") as running:
        ran = counted.figures(folder, tasks, running)
    return {"submitted_per_s": tasks / submitted, **ran}


def __getattr__(name: str) -> object:
    """`app`, made when FastStream asks for it."""
    if name != "app":
        raise AttributeError(name)
    from faststream import AckPolicy, FastStream

    broker = _broker()

    @broker.subscriber(
        TOPIC, group_id="workers", auto_offset_reset="earliest", ack_policy=AckPolicy[os.environ["BENCH_ACK"]]
    )
    async def noop(body: dict) -> None:
        counted.ran()

    return FastStream(broker)


def _broker():
    from faststream.confluent import KafkaBroker

    return KafkaBroker(os.environ["BENCH_KAFKA"], acks="all", enable_idempotence=True, linger_ms=1, logger=None)


async def _submit(tasks: int) -> float:
    async with _broker() as broker:
        await broker.publish({}, TOPIC)  # it waits for the producer's id
        return await callers.seconds(lambda: broker.publish({}, TOPIC), tasks - 1)


if __name__ == "__main__":
    print(asyncio.run(_submit(int(sys.argv[1]))))
