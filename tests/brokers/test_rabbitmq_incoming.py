"""Frames are cut, and messages read, as pika does it, however they arrive."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from queuecast.brokers.folded.wire import Message
from queuecast.brokers.rabbitmq import frames
from queuecast.brokers.rabbitmq.incoming import Incoming, Receiver, message

OURS, PIKAS = 1, 2
"""Channels."""

short = st.text(max_size=60)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=40)
values = st.recursive(
    scalars | st.binary(max_size=20) | st.just(datetime(2026, 1, 1, tzinfo=UTC)) | st.just(Decimal("1.5")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=6,
)
properties = st.builds(
    spec.BasicProperties,
    content_type=st.none() | short,
    content_encoding=st.none() | short,
    headers=st.none() | st.dictionaries(short, values, max_size=5),
    delivery_mode=st.none() | st.just(2),
    priority=st.none() | st.integers(0, 9),
    correlation_id=st.none() | short,
    reply_to=st.none() | short,
    expiration=st.none() | short,
    message_id=st.none() | short,
    timestamp=st.none() | st.integers(0, 2**40),
    type=st.none() | short,
    user_id=st.none() | short,
    app_id=st.none() | short,
    cluster_id=st.none() | short,
)
deliveries = st.tuples(st.integers(1, 2**63), st.booleans(), properties, st.binary(max_size=300))


def method(method, channel=OURS):
    return frame.Method(channel, method).marshal()


def delivery(tag, again, properties, body, *, frame_max=64, channel=OURS):
    deliver = method(spec.Basic.Deliver("ctag", tag, again, "exchange", "key"), channel)
    return deliver + _content(properties, body, frame_max, channel)


def _content(properties, body, frame_max, channel):
    pieces = [body[at : at + frame_max] for at in range(0, len(body), frame_max)]
    parts = [frame.Header(channel, len(body), properties), *(frame.Body(channel, piece) for piece in pieces)]
    return b"".join(part.marshal() for part in parts)


def expected(properties, body):
    headers = properties.headers or {}
    kept = {key: value for key, value in headers.items() if isinstance(value, (str, bool, int))}
    return Message(
        body=body,
        id=properties.message_id,
        name=properties.type,
        content_type=properties.content_type,
        reply_to=properties.reply_to,
        correlation_id=properties.correlation_id,
        headers=kept,
    )


class House:
    def __init__(self):
        self.taken, self.confirmed, self.passed, self.kept = [], [], b"", 0
        self.incoming = Incoming(self.pass_on)
        self.incoming.on_taken = self.keep
        self.incoming.receivers[OURS] = Receiver(
            lambda *delivery: self.taken.append(delivery), lambda *confirm: self.confirmed.append(confirm)
        )

    def pass_on(self, data):
        self.passed += data

    def keep(self, size):
        self.kept += size

    def feed(self, data, cuts=()):
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(places):
            self.incoming.feed(data[start:end])


@given(st.lists(deliveries, min_size=1, max_size=4), st.lists(st.integers(0, 10**6), max_size=12))
def test_deliveries_are_read_however_they_are_cut(sent, cuts):
    house = House()
    data = b"".join(delivery(*each) for each in sent)
    house.feed(data, cuts)
    assert house.taken == [(tag, again, expected(properties, body)) for tag, again, properties, body in sent]
    assert (house.passed, house.kept) == (b"", len(data))


@given(st.lists(st.integers(0, 10**6), max_size=12), st.binary(max_size=200))
def test_pika_gets_all_that_is_not_taken_in_its_order(cuts, body):
    nothing = spec.BasicProperties()
    others = [
        method(spec.Basic.Qos(0, 5, False)),
        delivery(7, False, nothing, body, channel=PIKAS),
        frame.Heartbeat().marshal(),
        method(spec.Basic.Return(312, "NO_ROUTE", "", "key")) + _content(nothing, body, 64, OURS),
        method(spec.Basic.Nack(3, True, False)),
        method(spec.Basic.Ack(3, True), channel=PIKAS),
        method(spec.Channel.Close(406, "no", 0, 0)),
    ]
    ours = [delivery(1, True, nothing, body), method(spec.Basic.Ack(5, True)), delivery(2, False, nothing, b"")]
    house = House()
    data = b"".join([others[0], ours[0], *others[1:3], ours[1], *others[3:6], ours[2], others[6]])
    house.feed(data, cuts)
    assert house.passed == b"".join(others)
    assert house.confirmed == [(5, True)]
    assert [(tag, again, taken.body) for tag, again, taken in house.taken] == [(1, True, body), (2, False, b"")]
    assert house.kept == len(data) - len(house.passed)


def test_what_is_no_frame_goes_to_pika_as_it_is():
    house = House()
    house.feed(b"AMQP\x00\x00\x09\x01" * 3)
    assert house.passed == b"AMQP\x00\x00\x09\x01" * 3


def test_a_frame_without_its_end_goes_to_pika_which_says_so():
    house = House()
    broken = bytearray(method(spec.Basic.Ack(5, True)))
    broken[-1] = 0
    house.feed(bytes(broken))
    assert (house.passed, house.confirmed) == (bytes(broken), [])


def head(properties):
    return frame.Header(1, 0, properties).marshal()[7 + 12 : -1]


def test_what_we_send_is_read_as_it_was():
    sent = {"text": "ü", "whole": -5, "yes": True, "no": False, "real": 1.25}
    encoded = frames.properties(headers=sent, id="a1", name="render", timestamp=5, content_type="application/json")
    assert message(encoded, b"{}") == Message(
        body=b"{}", id="a1", name="render", content_type="application/json", headers=sent | {"real": "1.25"}
    )


@pytest.mark.parametrize(("value", "read"), [(b"f\x3f\xc0\x00\x00", 1.5), (b"d\x7f\xf8" + bytes(6), math.nan)])
def test_a_float_is_read_as_one(value, read):
    field = b"\x01x" + value
    (found,) = message(b"\x20\x00" + len(field).to_bytes(4, "big") + field, b"").headers.values()
    assert found == read or math.isnan(found)


def test_what_is_no_text_is_left_out():
    encoded = bytearray(head(spec.BasicProperties(type="xy", message_id="a1")))
    encoded[encoded.index(b"xy")] = 0xFF
    assert message(bytes(encoded), b"{}") == Message(body=b"{}", id="a1")


def test_a_field_of_an_unknown_kind_ends_the_headers():
    fields = b"\x01at\x01" + b"\x01b?\x01" + b"\x01ct\x01"
    read = message(b"\x20\x80" + len(fields).to_bytes(4, "big") + fields + b"\x02id", b"{}")
    assert read == Message(body=b"{}", id="id", headers={"a": True})


@given(properties, st.data())
def test_a_broken_head_leaves_the_body(properties, data):
    whole = head(properties)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    assert message(cut, b"{}").body == b"{}"
