"""A task that runs for longer than RabbitMQ lets a message be held, with the times that users have (make test-long)."""

import asyncio
from contextlib import closing

import pika
import pika.exceptions
import pytest
from servers.found import need_rabbitmq_programs
from servers.rabbitmq import RabbitNode

from queuecast.brokers.folded.consumer import LOOK_SECONDS
from queuecast.brokers.folded.lease import HAND_OVER

from .held import Held
from .processes import Machine
from .verdict import pronounce

HELD_SECONDS = HAND_OVER + 2 * LOOK_SECONDS + 30
"""As short as a server may have it, where its default is 30 minutes. It looks once a minute."""

SECONDS = HELD_SECONDS + 240
"""A failure bound."""


def hold_until_it_is_taken_away(url):
    """As a plain worker that takes too long, until the server closes its channel."""
    with closing(pika.BlockingConnection(pika.URLParameters(f"{url}?heartbeat=20"))) as connection:
        channel = connection.channel()
        channel.queue_declare("witness", durable=True)
        channel.basic_publish("", "witness", b"{}")
        channel.basic_consume("witness", lambda *_: None)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
            channel.start_consuming()
    assert "timeout" in closed.value.reply_text.lower()


@pytest.mark.long
@pytest.mark.bound(SECONDS)
async def test_a_task_that_is_longer_than_a_message_may_be_held_runs_once(tmp_path):
    config = f"consumer_timeout = {HELD_SECONDS * 1_000:.0f}\n"
    with RabbitNode(tmp_path / "node", release=need_rabbitmq_programs(), config=config) as node:
        machine = Machine(tmp_path, node.url)
        held = Held(machine, node.url)
        try:
            async with held.load.reading():
                await held.begin()
                await asyncio.to_thread(hold_until_it_is_taken_away, node.url)
                held.let_go()
                await held.is_over()
                await held.next_one()
            await pronounce(machine, held.load, held.halves.port, kills=0)
            assert held.begun() == 1
        finally:
            machine.clean_up()
