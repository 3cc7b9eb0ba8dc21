"""Who is let in, as docs/rabbitmq.md says: by TLS, and with a user's permissions."""

import secrets
import shutil
import subprocess
from urllib.parse import urlencode

import pika
import pika.exceptions
import pytest
from servers.found import need_rabbitmq_programs
from servers.ports import free_port
from servers.rabbitmq import RabbitNode

from queuecast.brokers import make_broker
from queuecast.errors import BrokerUnavailable, ConfigurationError

from ..making import QUEUE, new_task
from ..steps import begin, consuming
from .steps import plain

pytestmark = pytest.mark.bound(60)

OURS = rf"^(_qc\..*|{QUEUE})$"
OURS_TO_WRITE = rf"^(amq\.default|_qc\..*|{QUEUE})$"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate that vouches for itself, for localhost."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine to make a certificate with")
    folder = tmp_path_factory.mktemp("authority")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(
        [*request.split(), "-addext", "subjectAltName=DNS:localhost"], cwd=folder, check=True, capture_output=True
    )
    (folder / "key.pem").chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def tls_port():
    return free_port()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority, tls_port):
    """A node with a second door, by TLS."""
    config = "".join(
        f"{line}\n"
        for line in (
            f"listeners.ssl.default = 127.0.0.1:{tls_port}",
            f"ssl_options.cacertfile = {authority}/cert.pem",
            f"ssl_options.certfile = {authority}/cert.pem",
            f"ssl_options.keyfile = {authority}/key.pem",
        )
    )
    with RabbitNode(tmp_path_factory.mktemp("node"), release=need_rabbitmq_programs(), config=config) as node:
        yield node


@pytest.fixture
def user(guarded):
    """The URL of a user with these permissions."""
    known = []

    def user(configure, write, read):
        name = f"user{len(known)}"
        known.append(name)
        guarded.ctl("add_user", name, "secret")
        guarded.ctl("set_permissions", name, configure, write, read)
        return f"amqp://{name}:secret@127.0.0.1:{guarded.port}/"

    yield user
    for name in known:
        guarded.ctl("delete_user", name)


@pytest.fixture
def opened(tmp_path, cleanup):
    async def opened(url, **more):
        broker = make_broker(f"{url}?{urlencode({'state': tmp_path / 'state', **more})}")
        cleanup.push_async_callback(broker.close)
        await broker.open()
        await broker.declare(QUEUE)
        return broker

    return opened


async def does_all_there_is(broker):
    """A task that is tried again, and one that ends among the dead letters."""
    key = secrets.token_hex(4)
    await broker.submit([again := new_task(delay=0.05), dead := new_task(idempotency_key=key)])
    async with consuming(broker) as deliveries:
        ended = set()
        while ended != {again.id, dead.id}:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            if delivery.task == dead:
                await delivery.reject("ValueError", run.failed("ValueError", "no such report"))
            elif delivery.attempt == 1:
                await delivery.retry(0.05, run.retrying())
                continue
            else:
                await delivery.ack(run.succeeded(42))
            ended.add(delivery.task.id)
    assert await broker.load(QUEUE, dead.id) == dead


class TestTls:
    async def test_an_authority_of_ones_own_vouches_for_the_server(self, opened, authority, tls_port, guarded):
        broker = await opened(
            f"amqps://guest:guest@localhost:{tls_port}/", ssl_options={"cafile": f"{authority}/cert.pem"}
        )
        await does_all_there_is(broker)

    async def test_a_server_that_nobody_vouches_for_is_not_talked_to(self, opened, tls_port, guarded):
        with pytest.raises(ConfigurationError, match="not trusted"):
            await opened(f"amqps://guest:guest@localhost:{tls_port}/")

    async def test_a_certificate_of_another_name_is_refused(self, opened, authority, tls_port, guarded):
        with pytest.raises(ConfigurationError, match="not trusted"):
            await opened(f"amqps://guest:guest@127.0.0.1:{tls_port}/", ssl_options={"cafile": f"{authority}/cert.pem"})


class TestPermissions:
    async def test_an_application_needs_no_more_than_the_guide_says(self, opened, user):
        await does_all_there_is(await opened(user(OURS, OURS_TO_WRITE, OURS)))

    @pytest.mark.parametrize(
        "permissions",
        [("^$", ".*", ".*"), (".*", "^$", ".*"), (".*", ".*", "^$")],
        ids=["configure", "write", "read"],
    )
    async def test_what_is_missing_is_said_and_what_to_do(self, opened, user, permissions):
        with pytest.raises((ConfigurationError, BrokerUnavailable), match="ACCESS_REFUSED") as refusal:
            await does_all_there_is(await opened(user(*permissions)))
        assert "set_permissions" in str(refusal.value)

    async def test_a_wrong_password_is_said(self, opened, guarded):
        with pytest.raises(ConfigurationError, match="refuses this user or password"):
            await opened(f"amqp://guest:wrong@127.0.0.1:{guarded.port}/")

    async def test_a_plain_worker_needs_its_queue_alone(self, user, guarded):
        with plain(guarded.url) as channel:
            channel.queue_declare("task_queue", durable=True)
            answers = channel.queue_declare("", exclusive=True).method.queue
            channel.basic_publish("", "task_queue", b"{}", pika.BasicProperties(reply_to=answers))
            with plain(user("^task_queue$", r"^amq\.default$", "^task_queue$")) as worker:
                worker.queue_declare("task_queue", durable=True)
                method, properties, _ = worker.basic_get("task_queue", auto_ack=True)
                assert method
                worker.basic_publish("", properties.reply_to, b"42")
            assert channel.basic_get(answers, auto_ack=True)[2] == b"42"

    async def test_what_another_user_has_signed_is_put_back_without_its_name(self, opened, user, guarded):
        """A server closes the channel of whoever publishes under another's name."""
        broker = await opened(guarded.url)
        with plain(user("^$", r"^amq\.default$", "^$")) as producer:
            signed = pika.BasicProperties(user_id=producer.connection._impl.params.credentials.username)
            producer.confirm_delivery()
            producer.basic_publish("", QUEUE, b"{}", signed, mandatory=True)  # without an id: put back with one
        async with consuming(broker) as deliveries:
            first = await anext(deliveries)
            await first.retry(0.05, (await begin(first)).retrying())
            again = await anext(deliveries)
            assert (again.task.id, again.attempt) == (first.task.id, 2)
            await again.ack((await begin(again)).succeeded(42))

    async def test_a_reader_of_events_can_do_nothing_else(self, opened, user, guarded):
        await (await opened(guarded.url)).submit([new_task()])
        log = f"_qc.events.{QUEUE}"
        with plain(user("^$", "^$", rf"^_qc\.events\.{QUEUE}$")) as reader:
            reader.basic_qos(prefetch_count=100)
            reads = reader.consume(log, arguments={"x-stream-offset": "first"}, inactivity_timeout=20)
            assert any(b"queued" in body for _, _, body in reads)  # what marks an end of the log is there as well
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
                reader.queue_purge(QUEUE)
