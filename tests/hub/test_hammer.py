"""Clients that come and go at random while the log grows at full rate: each ends with exactly the log's interval."""

import asyncio
import random

import pytest

from queuecast.cursor import parse_cursor
from queuecast.hub import fanout as fanout_module
from queuecast.hub import replay as replay_module
from queuecast.hub import window as window_module
from queuecast.sse import Parser

from .making import Hesitant, World, members_of_a_cohort

EVENTS = 2_000
CLIENTS = 12


@pytest.mark.bound(60)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("frames", "chunk"), [(50, 600), (10_000, 65_536)])
@pytest.mark.parametrize("owner", [None, "ann"])
async def test_no_gap_and_no_repeat(monkeypatch, seed, frames, chunk, owner):
    monkeypatch.setattr(window_module, "MAX_FRAMES", frames)
    monkeypatch.setattr(window_module, "SLACK_FRAMES", 10)
    for module in (window_module, fanout_module, replay_module):
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    members_of_a_cohort(monkeypatch, 3)
    chance = random.Random(seed)
    async with World(backlog=20) as world:
        runs = [await world.run(owner="ann"), await world.run(owner="bob")]
        followers = [asyncio.create_task(follow(world, chance.random(), owner)) for _ in range(CLIENTS)]
        for _ in range(EVENTS // 10):
            await chance.choice(runs).progress(chance.randint(1, 19))
            await asyncio.sleep(0)
        for run in runs:
            await run.succeed()
        log = await world.log()
        for follower in followers:
            first, events = await follower
            assert events == [event for event in log[first:] if owner in {None, event.get("owner")}]


async def follow(world, seed, owner):
    """Reconnect with the cursor of what came until both results are there. Returns the first offset and all events."""
    chance = random.Random(seed)
    asked = chance.choice(["first", "last"])
    first = None
    events = []
    left = 2 if owner is None else 1
    while left:
        client = await world.follow(asked=asked, owner=owner, client=Hesitant(chance.random()))
        if first is None:
            first = parse_cursor(client.start.id).offset
        await asyncio.sleep(chance.random() * 0.02)
        client.sub.lost()
        parser = Parser(asked)
        messages = parser.feed(client.bytes)
        assert not client.resets
        asked = parser.last_event_id
        assert len(messages) == len(client.events)
        events += client.events
        left -= sum(event["type"] == "result" for event in client.events)
    return first, events
