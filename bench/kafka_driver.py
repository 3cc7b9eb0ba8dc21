"""Kafka's driver without what is above it: how much a second through one process?

Tasks put into 12 partitions and taken again, events appended and read; `rebuild.py` has the folding of them, and
`kafka_tasks.py` what the plain client reaches. Wants a Kafka that is running; the topics made there are deleted again.
"""

import argparse
import asyncio
import secrets
import time
from functools import partial

from lib import filed_log, kafka, options, report, trials
from msgspec import Raw

from queuecast.brokers.base import Retention
from queuecast.brokers.folded.driver import Parcel
from queuecast.brokers.folded.wire import pack
from queuecast.brokers.kafka import KafkaDriver
from queuecast.codec import encode_event
from queuecast.cursor import beginning
from queuecast.task import Options, make_task

AT_ONCE = 1_000  # calls that wait for their confirmation together
HELD = 500  # tasks that are taken and not settled, at most
KEEP_ALL = Retention(age=1e9, size=1 << 40)


def parcel(queue):
    return Parcel(queue, pack(make_task(queue, "noop", Raw(b"{}"), Options(), now=time.time(), horizon=1e6)))


async def tasks(driver, queue, count):
    await driver.put([parcel(queue)])  # the first one waits for the producer's id
    began = time.perf_counter()
    for _ in range(0, count, AT_ONCE):
        await asyncio.gather(*(driver.put([parcel(queue)]) for _ in range(AT_ONCE)))
    put = time.perf_counter() - began
    intake = driver.consume(queue, HELD)
    (await anext(intake)).settle()  # the first one waits for the group
    began = time.perf_counter()
    for _ in range(count):
        (await anext(intake)).settle()
    took = time.perf_counter() - began
    await intake.aclose()
    return {"tasks_put_per_s": count / put, "tasks_taken_per_s": count / took}


async def events(driver, queue, count):
    bodies = [encode_event(event) for number in range(count) for event in filed_log.story(number)]
    began = time.perf_counter()
    for start in range(0, len(bodies), AT_ONCE):
        await asyncio.gather(*(driver.append(queue, [body]) for body in bodies[start : start + AT_ONCE]))
    appended = time.perf_counter() - began
    last = (await driver.bounds(queue)).last
    began = time.perf_counter()
    async for page in driver.read(queue, beginning(None)):
        if page.upto >= last:
            break
    read = time.perf_counter() - began
    return {
        "events_appended_per_s": len(bodies) / appended,
        "events_read_per_s": len(bodies) / read,
    }


async def measure(address, queue, chosen):
    driver = KafkaDriver(f"kafka://{address}", KEEP_ALL)
    await driver.open()
    try:
        await driver.declare(queue, None)
        return {
            **await tasks(driver, queue, chosen.tasks),
            **await events(driver, queue, chosen.finished),
        }
    finally:
        await driver.close()


def ours(chosen):
    queue = f"bench-{secrets.token_hex(4)}"
    try:
        return asyncio.run(measure(chosen.kafka, queue, chosen))
    finally:
        kafka.delete(chosen.kafka, queue, f"_qc.events.{queue}")


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="host:port")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--finished", type=int, default=100_000, help="tasks in the log that is read")
    chosen: argparse.Namespace = parser.parse_args()
    todo = {("queuecast", "driver"): partial(ours, chosen)}
    report.emit("kafka_driver", vars(chosen), trials.interleaved(todo, chosen.rounds))


if __name__ == "__main__":
    main()
