"""Where a submitter's place in the log comes from."""

import asyncio

import pytest

from queuecast.brokers.folded.projection import Projection
from queuecast.brokers.futures import failed
from queuecast.errors import BrokerUnavailable, OutcomeUnknown, ResetRequired

from ..making import QUEUE, new_task


async def test_many_who_submit_at_once_ask_for_the_log_s_end_once(connect, monkeypatch):
    broker = await connect()
    asked = 0
    recent = broker._writing.driver.recent

    async def counted(log):
        nonlocal asked
        asked += 1
        return await recent(log)

    monkeypatch.setattr(broker._writing.driver, "recent", counted)
    answers = await asyncio.gather(*(broker.submit([new_task()]) for _ in range(100)))
    assert len({receipt.id for [receipt] in answers}) == 100
    assert asked == 1


async def test_a_question_that_failed_is_asked_again(connect, monkeypatch):
    broker = await connect()
    driver = broker._writing.driver
    recent = driver.recent

    async def failing(log):
        raise BrokerUnavailable("not now")

    monkeypatch.setattr(driver, "recent", failing)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await broker.submit([new_task()])
    monkeypatch.setattr(driver, "recent", recent)
    [receipt] = await broker.submit([task := new_task()])
    assert receipt.id == task.id


async def test_a_submit_whose_first_event_is_trimmed_at_once_has_its_receipt(connect, monkeypatch):
    broker = await connect()
    await broker.bounds(QUEUE)  # from here on it follows the log

    async def trimmed(self, offset):
        raise ResetRequired("trimmed")

    monkeypatch.setattr(Projection, "at", trimmed)
    [receipt] = await broker.submit([task := new_task()])
    assert (receipt.id, receipt.created) == (task.id, True)


@pytest.mark.parametrize("followed", [False, True])
async def test_a_submit_whose_log_cannot_be_written_any_more_does_not_say_that_nothing_was_taken(
    connect, server, monkeypatch, followed
):
    broker = await connect()
    if followed:
        await broker.bounds(QUEUE)

    def failing(log, bodies):
        return failed(BrokerUnavailable("not now"))

    monkeypatch.setattr(broker._writing.driver, "append", failing)
    with pytest.raises(OutcomeUnknown, match="not now"):
        await broker.submit([new_task()])
    assert len(server.queues[QUEUE].waiting) == 1
