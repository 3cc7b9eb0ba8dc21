"""Who is let in, as docs/kafka.md says: by TLS, with a user's password, and with a user's ACLs."""

import asyncio
import shutil
import subprocess
from urllib.parse import urlencode

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from servers.found import need_kafka_programs
from servers.kafka_node import KafkaNode, free_ports
from servers.ports import free_port
from servers.waiting import wait_until

from queuecast.brokers import make_broker
from queuecast.brokers.base import External
from queuecast.errors import ConfigurationError

from ..making import QUEUE, new_task
from ..steps import begin, consuming
from .steps import until

pytestmark = pytest.mark.bound(60)

ON_TOPICS = ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE", "DELETE")

NEEDED = (
    *((ResourceType.TOPIC, QUEUE, ResourcePatternType.LITERAL, operation) for operation in ON_TOPICS),
    *((ResourceType.TOPIC, "_qc.", ResourcePatternType.PREFIXED, operation) for operation in ON_TOPICS),
    (ResourceType.GROUP, "queuecast", ResourcePatternType.PREFIXED, "READ"),
    (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, "IDEMPOTENT_WRITE"),
)
"""What docs/kafka.md says."""

PASSWORD = "a secret/with:signs@"
AS_IN_A_URL = "a%20secret%2Fwith%3Asigns%40"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate that vouches for itself, for localhost; with its key in one file, as Kafka wants it."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine to make a certificate with")
    folder = tmp_path_factory.mktemp("authority")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(
        [*request.split(), "-addext", "subjectAltName=DNS:localhost"], cwd=folder, check=True, capture_output=True
    )
    (folder / "both.pem").write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def door():
    """The port by which users come."""
    return free_port()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority, door):
    """A node with a second door, by TLS and with a password, where one may do what an ACL allows."""
    ports = free_ports()
    doors = (
        f"PLAINTEXT://127.0.0.1:{ports.clients},CONTROLLER://127.0.0.1:{ports.controller},GUARDED://localhost:{door}"
    )
    login = "org.apache.kafka.common.security"
    lines = (
        f"listeners={doors}",
        f"advertised.listeners={doors}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={authority}/both.pem",
        "listener.name.guarded.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
        f"listener.name.guarded.plain.sasl.jaas.config={login}.plain.PlainLoginModule required"
        f' user_ann="{PASSWORD}" user_bob="{PASSWORD}";',
        f"listener.name.guarded.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:ANONYMOUS",  # who comes by the other doors
    )
    with KafkaNode(tmp_path_factory.mktemp("node"), need_kafka_programs(), ports=ports, lines=lines) as node:
        yield node


@pytest.fixture
def admin(guarded):
    return AdminClient({"bootstrap.servers": guarded.address})


ALL = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)


@pytest.fixture
def allow(admin):
    """Give a user these permissions; all are taken away at the end."""

    def allow(user, permissions):
        given = [
            AclBinding(kind, name, pattern, f"User:{user}", "*", AclOperation[operation], AclPermissionType.ALLOW)
            for kind, name, pattern, operation in permissions
        ]
        for made in admin.create_acls(given).values():
            made.result()
        hold(lambda known: known >= set(given))

    def hold(enough):
        """A broker learns of them a little later than the controller."""
        wait_until(lambda: enough(set(admin.describe_acls(ALL).result())), "the ACLs do not hold", seconds=10)

    yield allow
    admin.delete_acls([ALL])[ALL].result()
    hold(lambda known: not known)


@pytest.fixture
def opened(authority, door, tmp_path, cleanup):
    async def opened(user="ann", password=AS_IN_A_URL, *, host="localhost", **options):
        settings = {"ssl.ca.location": f"{authority}/cert.pem", "partitions": 1, "state": tmp_path / "state"} | options
        given = {name: value for name, value in settings.items() if value is not None}
        broker = make_broker(f"kafka://{user}:{password}@{host}:{door}?{urlencode(given)}")
        cleanup.push_async_callback(broker.close)
        await broker.open()
        await broker.declare(QUEUE)
        return broker

    return opened


async def does_all_there_is(broker):
    """A task that is tried again, and one that ends among the dead letters."""
    await broker.submit([again := new_task(delay=0.05), dead := new_task()])
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
    async def test_a_server_that_nobody_vouches_for_is_not_talked_to(self, opened, guarded):
        with pytest.raises(ConfigurationError, match=r"ssl\.ca\.location"):
            await opened(**{"ssl.ca.location": None})

    async def test_a_certificate_of_another_name_is_refused(self, opened, guarded):
        with pytest.raises(ConfigurationError, match="certificate"):
            await opened(host="127.0.0.1")

    async def test_a_file_that_is_not_there_is_said(self, opened, guarded):
        with pytest.raises(ConfigurationError, match=r"ssl\.ca\.location"):
            await opened(**{"ssl.ca.location": "/nowhere.pem"})


class TestPasswords:
    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
    async def test_a_wrong_password_is_said(self, opened, guarded, mechanism):
        with pytest.raises(ConfigurationError, match="refuses this user or password"):
            await opened(password="wrong", **{"sasl.mechanism": mechanism})

    async def test_a_user_of_another_mechanism_is_let_in(self, opened, admin, allow):
        secret = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        change = UserScramCredentialUpsertion("carol", secret, PASSWORD.encode())
        admin.alter_user_scram_credentials([change])["carol"].result()
        allow("carol", NEEDED)
        await does_all_there_is(await opened("carol", **{"sasl.mechanism": "SCRAM-SHA-512"}))


class TestPermissions:
    async def test_an_application_needs_no_more_than_the_guide_says(self, opened, allow):
        allow("ann", NEEDED)
        await does_all_there_is(await opened())

    @pytest.mark.parametrize("operation", ["CREATE", "READ", "WRITE", "DELETE"])
    @pytest.mark.parametrize("topic", [QUEUE, "_qc."])
    async def test_what_is_missing_on_topics_is_said_when_it_opens(self, opened, admin, allow, topic, operation):
        without_topics(admin)
        allow("bob", [each for each in NEEDED if each[1] != topic or each[3] != operation])
        with pytest.raises(ConfigurationError, match="needs ACLs"):
            await opened("bob")

    async def test_that_a_topics_settings_may_not_be_seen_is_said_where_they_matter(self, opened, admin, allow):
        """Where the topic is there already, and might lose tasks."""
        without_topics(admin)
        allow("bob", [each for each in NEEDED if each[3] != "DESCRIBE_CONFIGS"])
        await opened("bob")
        with pytest.raises(ConfigurationError, match="needs ACLs"):
            await opened("bob")

    async def test_to_the_topic_of_an_external_queue_it_need_only_write(self, opened, admin, allow):
        admin.create_topics([NewTopic("shop.orders", 1, 1)])["shop.orders"].result()
        allow("ann", [*NEEDED, (ResourceType.TOPIC, "shop.orders", ResourcePatternType.LITERAL, "WRITE")])
        broker = await opened()
        await broker.declare("shop", External("shop.orders", 60.0))
        await broker.submit([new_task(queue="shop")])

    async def test_that_it_may_join_no_group_is_said_again_and_again(self, opened, allow, caplog):
        allow("bob", [each for each in NEEDED if each[0] != ResourceType.GROUP])
        broker = await opened("bob")
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            waiting = asyncio.ensure_future(anext(deliveries))
            await until(lambda: f"{QUEUE} cannot be consumed" in caplog.text)
            assert "needs ACLs" in caplog.text
            allow("bob", NEEDED)
            await waiting


def without_topics(admin):
    """As on a cluster that has never seen us."""
    names = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]
    for deleted in (admin.delete_topics(names) if names else {}).values():
        deleted.result()
