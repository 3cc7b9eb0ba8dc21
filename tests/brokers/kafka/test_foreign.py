"""Programs that know Kafka and nothing of us: those of examples/kafka, and what Spring writes."""

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec import Raw
from servers.clean import cleaned_kafka

from queuecast.brokers import External, make_broker
from queuecast.brokers.kafka.headers import from_kafka, to_kafka

from ..making import Run, new_task
from ..steps import not_lost, read_until
from .steps import message

EXAMPLES = Path(__file__).parents[3] / "examples" / "kafka"


@pytest.fixture
def start(address, cleanup):
    async def start(program, *arguments):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLES / program, *arguments),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"KAFKA": address},
        )

        async def end():
            if process.returncode is None:
                process.kill()
            await process.communicate()

        cleanup.push_async_callback(end)
        return process

    return start


@pytest.fixture
def connect(address, cleanup, tmp_path):
    async def connect(*queues):
        broker = make_broker(f"{cleaned_kafka(address, queues)}?partitions=2&state={tmp_path}")
        await broker.open()
        cleanup.push_async_callback(broker.close)
        return broker

    return connect


@pytest.mark.bound(60)
async def test_a_plain_worker_answers(connect, start):
    broker = await connect("task_queue")
    await broker.declare("task_queue", External("task_queue", 60))
    task = new_task("count", queue="task_queue", args={"text": "one two three"})
    await broker.submit([task])
    end = (await broker.bounds("task_queue")).last
    await start("worker.py")
    [entry] = await read_until(broker, bool, "task_queue", after=end)
    status = await broker.status("task_queue", task.id)
    assert (status.state, status.result) == ("succeeded", {"words": 3})
    assert entry.offset == status.cursor.offset


@pytest.mark.bound(60)
async def test_a_plain_producer_is_answered(connect, start):
    broker = await connect("orders", "order-answers")
    await broker.declare("orders")
    producer = await start("producer.py", "19.5", "3.5")
    async with aclosing(broker.consume("orders", 5, not_lost)) as deliveries:
        delivery = await anext(deliveries)
        assert (delivery.task.name, delivery.task.args) == ("total", Raw(b'{"prices": [19.5, 3.5]}'))
        run = Run(delivery.task)
        await delivery.append(run.running())
        await delivery.ack(run.succeeded(23.0))
    out, _ = await producer.communicate()
    assert out.decode() == "answer: 23.0\n"


def test_springs_names_are_read_and_written():
    sent = message("a", reply_to="answers", correlation_id="c-1")
    assert dict(to_kafka(sent))["kafka_replyTopic"] == "answers"
    assert dict(to_kafka(sent))["kafka_correlationId"] == "c-1"
    spring = [("kafka_replyTopic", b"answers"), ("kafka_correlationId", b"c-1"), ("kafka_offset", b"\xff")]
    assert from_kafka(b"{}", spring) == message(None, reply_to="answers", correlation_id="c-1")
