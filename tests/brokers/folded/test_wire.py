"""A task on the wire: what we write we read again; what others write is taken as far as it means anything."""

import msgspec
import pytest
from msgspec.structs import replace

from brokers.making import new_task, seconds_from_now
from queuecast.brokers.folded.wire import (
    ATTEMPT,
    ERROR,
    RETRIES,
    TIMEOUT,
    Message,
    Unusable,
    answer_to,
    id_of,
    pack,
    result_of,
    unpack,
    with_fresh_id,
)
from queuecast.event import ErrorInfo, ResultEvent
from queuecast.task import MAX_RETRIES, MAX_TASK_BYTES

NOW = 1_800_000_000.0
QUEUE = "reports"


def foreign(body: bytes = b'{"report":7}', **fields) -> Message:
    return Message(**{"body": body, "id": "a1", "name": "render"} | fields)


def unpacked(message: Message):
    return unpack(QUEUE, id_of(QUEUE, message) or "", message, NOW)


def test_a_task_is_read_as_it_was_written():
    task = new_task(
        args={"report": 7, "title": "Übersicht"},
        owner="ann",
        timeout=60,
        retries=3,
        delay=5,
        expires_at=seconds_from_now(60),
        correlation_id="c1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    task = replace(task, reply_to="amq.gen-x", requeued_from="before")
    message = pack(task, attempt=4)
    assert unpack(QUEUE, task.id, message, NOW) == (task, 4, None, False, False)
    assert id_of(QUEUE, message) == task.id


def test_the_body_is_the_arguments_and_nothing_else():
    message = pack(new_task(args={"report": 7}))
    assert (message.body, message.content_type, message.name) == (b'{"report":7}', "application/json", "render")


def test_a_foreign_worker_is_asked_to_answer_by_the_tasks_id():
    task = new_task(correlation_id="the user's own")
    message = pack(task, replies="_qc.replies.reports")
    assert (message.reply_to, message.correlation_id) == ("_qc.replies.reports", task.id)


class TestIds:
    def test_a_foreign_id_is_kept(self):
        assert id_of(QUEUE, foreign(id="order 7")) == "order 7"

    @pytest.mark.parametrize("id", ["x" * 201, "a\nb"])
    def test_one_that_no_url_takes_is_replaced_always_by_the_same(self, id):
        made = id_of(QUEUE, foreign(id=id))
        assert made == id_of(QUEUE, foreign(id=id, body=b"{}"))
        assert made != id_of(QUEUE, foreign(id=id + "!"))
        assert made.isalnum()

    def test_without_one_the_replys_address_stands_for_it(self):
        one = foreign(id=None, reply_to="amq.gen-1", correlation_id="1")
        assert (
            id_of(QUEUE, one)
            == id_of(QUEUE, one)
            != id_of(QUEUE, foreign(id=None, reply_to="amq.gen-1", correlation_id="2"))
        )
        assert id_of(QUEUE, one) != id_of("mail", one)

    @pytest.mark.parametrize("address", [{}, {"reply_to": "r"}, {"correlation_id": "c"}])
    def test_without_either_there_is_none(self, address):
        message = foreign(id=None, **address)
        assert id_of(QUEUE, message) is None
        named = with_fresh_id(message, NOW)
        assert id_of(QUEUE, named) is not None
        assert replace(named, id=None) == message


class TestForeignMessages:
    def test_the_least_that_is_a_task(self):
        task, attempt, *_ = unpacked(Message(body=b"{}", id="a1"))
        assert (task.name, task.submitted_at, task.retries, attempt) == ("", NOW, 0, 1)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"hello", b"\x80\x04\x95", b"{} {}", b"[" * 200 + b"]" * 200, b'"' + b"x" * MAX_TASK_BYTES + b'"'],
        ids=["empty", "cut", "text", "pickle", "two", "deep", "large"],
    )
    def test_a_body_that_is_no_json_cannot_be_read(self, body):
        with pytest.raises(Unusable) as caught:
            unpacked(foreign(body))
        assert caught.value.type == "undecodable"

    def test_a_reply_to_a_queue_of_ours_is_refused(self):
        with pytest.raises(Unusable) as caught:
            unpacked(foreign(reply_to="_qc.replies.reports"))
        assert caught.value.type == "bad-reply-to"

    @pytest.mark.parametrize("attempt", [float("nan"), -1, 1e9, "two", True, 0, MAX_RETRIES + 2])
    def test_an_attempt_that_is_none_is_the_first(self, attempt):
        assert unpacked(foreign(headers={ATTEMPT: attempt})).attempt == 1

    @pytest.mark.parametrize(
        ("header", "value"),
        [(TIMEOUT, -1), (TIMEOUT, float("inf")), (TIMEOUT, "soon"), (TIMEOUT, "nan"), (RETRIES, -1)],
    )
    def test_an_option_that_means_nothing_is_left_out(self, header, value):
        task = unpacked(foreign(headers={header: value})).task
        assert (task.timeout, task.retries) == (None, 0)


class TestAnswers:
    def ending(self, **said) -> ResultEvent:
        return ResultEvent(id="a1", queue=QUEUE, attempt=1, time="", **said)

    def asked(self):
        return replace(new_task(), reply_to="amq.gen-1", correlation_id="c1")

    def test_a_result_is_told_as_json(self):
        answer = answer_to(self.asked(), self.ending(state="succeeded", result={"pages": 3}))
        assert (answer.body, answer.correlation_id, dict(answer.headers)) == (b'{"pages":3}', "c1", {})

    def test_no_result_is_null(self):
        assert answer_to(self.asked(), self.ending(state="succeeded")).body == b"null"

    @pytest.mark.parametrize(
        ("ending", "type"),
        [
            ({"state": "failed", "error": ErrorInfo("ValueError", "no")}, "ValueError"),
            ({"state": "cancelled"}, "cancelled"),
        ],
    )
    def test_an_error_is_told_in_a_header(self, ending, type):
        answer = answer_to(self.asked(), self.ending(**ending))
        assert answer.headers[ERROR] == type
        assert msgspec.json.decode(answer.body)["type"] == type

    @pytest.mark.parametrize(
        ("body", "result"),
        [(b'{"a":1}', {"a": 1}), (b"7", 7), (b"done", "done"), (b"", ""), ("Ü".encode("latin1"), "�"), (b"{", "{")],
    )
    def test_an_answer_is_json_or_text(self, body, result):
        said, error = result_of(Message(body=body))
        assert (msgspec.json.decode(said), error) == (result, None)

    def test_an_answer_with_an_error_is_a_failure(self):
        said, error = result_of(Message(body=b"no such order", headers={ERROR: "KeyError"}))
        assert (said, error) == (None, ErrorInfo("KeyError", "no such order"))
