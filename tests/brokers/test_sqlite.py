"""The SQLite broker keeps the contract, and what only a file can promise."""

import asyncio
import fcntl
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from queuecast.brokers import Retention, make_broker
from queuecast.brokers.sqlite import (
    SQLiteBroker,
    database,
    duties,
    operations,
    peers,
    place,
    reads,
    room,
    store,
    writer,
)
from queuecast.errors import BrokerUnavailable, ConfigurationError, OutcomeUnknown, StorageFull
from queuecast.task import STATES

from .contract import Backend, BrokerContract
from .making import QUEUE, new_task, new_tasks, seconds_from_now
from .sqlite_child import LEASE
from .steps import (
    FAR,
    a_round_trip,
    begin,
    consuming,
    entries_of,
    finish,
    log_of,
    meanwhile,
    result_of,
    results_of,
    shown,
    story,
    turns,
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "work.db"


@pytest.fixture
def open_at(cleanup):
    async def open_at(path: Path, retention: Retention) -> SQLiteBroker:
        broker = SQLiteBroker(f"sqlite:///{path}", retention, path=str(path))
        await broker.open()
        cleanup.push_async_callback(broker.close)
        return broker

    return open_at


@pytest.fixture
def open_broker(path, open_at):
    async def open_broker(retention: Retention = Retention()) -> SQLiteBroker:  # noqa: B008 - immutable
        return await open_at(path, retention)

    return open_broker


class TestSQLite(BrokerContract):
    @pytest.fixture
    def backend(self, path, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", LEASE)
        return Backend(f"sqlite:///{path}", f"{__package__}.sqlite_child:with_short_lease")

    @pytest.fixture
    def open_fresh(self, path, open_at):
        async def open_fresh(retention):
            return await open_at(path.with_name("fresh.db"), retention)

        return open_fresh


class TestOpening:
    async def refused(self, path: Path) -> str:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(ConfigurationError) as caught:
            await SQLiteBroker("sqlite:///work.db", path=str(path)).open()
        assert before is None or path.read_bytes() == before, "it is left as it was"
        return str(caught.value)

    async def test_a_folder_is_no_database(self, tmp_path):
        assert "is a folder" in await self.refused(tmp_path)

    async def test_the_folder_must_exist(self, tmp_path):
        assert "does not exist: create it" in await self.refused(tmp_path / "missing" / "work.db")

    async def test_the_folder_must_be_writable(self, path, monkeypatch):
        # Root may write everywhere, so the system's answer is put into its mouth.
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert "not writable" in await self.refused(path)

    async def test_the_file_must_be_readable_and_writable(self, path, monkeypatch):
        path.touch()
        monkeypatch.setattr(os, "access", lambda asked, _: Path(asked) != path)
        assert "whose file it is" in await self.refused(path)

    async def test_another_kind_of_file_is_refused(self, path):
        path.write_text("name;price\ntea;3\n" * 100)
        assert "not a SQLite database" in await self.refused(path)

    async def test_another_programs_database_is_refused(self, path):
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE customer (name TEXT)")
        assert "another program's database" in await self.refused(path)

    async def test_a_newer_version_is_refused(self, path, open_broker):
        await (await open_broker()).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version={database.VERSION + 1}")
        with pytest.raises(ConfigurationError, match="newer queuecast"):
            await open_broker()

    async def test_a_damaged_file_is_refused(self, path, open_broker):
        await (await open_broker()).close()
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"\xff" * 3_996 + whole[4_096:])
        with pytest.raises(ConfigurationError, match="damaged"):
            await open_broker()

    @pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse.ceph-fuse"])
    async def test_a_network_file_system_is_refused(self, path, monkeypatch, kind):
        monkeypatch.setattr(place, "mounts", lambda: [("/", "ext4"), (str(path.parent), kind)])
        assert f"network file system ({kind})" in await self.refused(path)

    async def test_a_file_that_is_mounted_alone_is_refused(self, path, monkeypatch):
        monkeypatch.setattr(place, "mounts", lambda: [("/", "ext4"), (str(path), "ext4")])
        assert "mount its folder" in await self.refused(path)

    @pytest.mark.parametrize("url", ["sqlite:", "sqlite:work.db", "sqlite://work.db", "sqlite:////", "sqlite:///a\0b"])
    async def test_a_url_without_a_file_is_refused(self, url):
        with pytest.raises(ConfigurationError, match="names no file"):
            make_broker(url)

    async def test_another_librarys_word_for_memory_is_no_file(self):
        with pytest.raises(ConfigurationError, match="write memory://"):
            make_broker("sqlite:///:memory:")

    @pytest.mark.parametrize("url", ["sqlite:////dev/null", f"sqlite:///{'x' * 300}"])
    async def test_what_can_be_no_file_is_refused(self, url):
        with pytest.raises(ConfigurationError):
            await make_broker(url).open()

    async def test_a_path_is_taken_as_it_stands(self, path, cleanup):
        odd = path.with_name("my #1 50% file.db")
        broker = make_broker(f"sqlite:///{odd}?sync=normal")
        await broker.open()
        cleanup.push_async_callback(broker.close)
        assert odd.exists()

    async def test_a_wrong_sync_is_refused(self):
        with pytest.raises(ConfigurationError, match="full or normal"):
            make_broker("sqlite:///work.db?sync=fast")

    async def test_everything_is_for_its_user_only(self, path, open_broker):
        broker = await open_broker()
        await broker.submit([new_task()])
        files = [path, path.with_name("work.db-wal"), path.with_name("work.db-shm"), *Path(f"{path}.d").iterdir()]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(Path(f"{path}.d").stat().st_mode) == 0o700

    async def test_a_link_leads_to_the_same_database(self, path, open_broker, cleanup):
        broker = await open_broker()
        (link := path.with_name("link.db")).symlink_to(path)
        other = SQLiteBroker("sqlite:///link.db", path=str(link))
        await other.open()
        cleanup.push_async_callback(other.close)
        await broker.submit([task := new_task()])
        async with consuming(other) as deliveries:
            assert (await anext(deliveries)).task == task

    async def test_closing_leaves_one_file_and_the_lock(self, path, open_broker):
        broker = await open_broker()
        await broker.submit(new_tasks(3))
        await broker.close()
        assert sorted(each.name for each in path.parent.iterdir()) == ["work.db", "work.db.d"]
        assert [each.name for each in Path(f"{path}.d").iterdir()] == ["lock"]

    async def test_what_others_left_behind_is_cleared_away_without_a_server(self, path, open_broker):
        await (await open_broker()).close()
        os.mkfifo(Path(f"{path}.d/00c0ffee.fifo"))
        broker = await open_broker()
        await broker.submit([new_task()])
        await broker.close()
        assert [each.name for each in Path(f"{path}.d").iterdir()] == ["lock"]

    async def test_people_can_look_into_it(self, path, open_broker):
        broker = await open_broker()
        await broker.submit([task := new_task(owner="ann")])
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT queue, id, name, state, owner FROM tasks").fetchall() == [
                (QUEUE, task.id, "render", "queued", "ann")
            ]
            [(queue, offset, body)] = db.execute("SELECT queue, offset, body FROM events").fetchall()
        assert (queue, offset, body.encode()) == (QUEUE, 1, (await entries_of(broker))[0].body)

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    async def test_a_forked_child_is_told_to_open_its_own(self, open_broker):
        broker = await open_broker()
        reader, writer = os.pipe()

        async def use_it() -> None:
            await broker.append(QUEUE, [])

        child = os.fork()
        if child == 0:
            try:
                asyncio.run(use_it())
            except BrokerUnavailable as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with open(reader, "rb") as told:
            assert b"open one in the child" in told.read()
        await broker.submit([new_task()])


def test_linux_mounts_are_read():
    text = (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "90 22 0:55 / /home/ann/my\\040files rw shared:3 - nfs4 nas:/ann rw,vers=4.2\n"
    )
    mounted = place.parse_mountinfo(text)
    assert place.file_system_of(Path("/home/ann/my files/work"), mounted) == "nfs4"
    assert place.file_system_of(Path("/home/ann/my files too"), mounted) == "ext4"


def test_mac_mounts_are_read():
    text = "/dev/disk1s1 on / (apfs, local)\n//ann@nas/work on /Volumes/work (smbfs, nodev)\n"
    assert place.file_system_of(Path("/Volumes/work/db"), place.parse_mount(text)) == "smbfs"


class TestWriting:
    async def test_a_turn_that_never_comes_is_not_waited_for(self, path, open_broker, monkeypatch):
        monkeypatch.setattr(operations.Operation, "patience", 0.1)
        broker = await open_broker()
        await broker.declare(QUEUE)
        with open(f"{path}.d/lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(BrokerUnavailable, match="does not let go"):
                await broker.submit([new_task()])
        await broker.submit([task := new_task()])
        assert [event.id for event in await log_of(broker)] == [task.id]

    async def test_nothing_of_a_run_is_written_after_what_was_withdrawn(self, path, open_broker, monkeypatch):
        """The turn comes too late for a run's progress, and in time for its result."""
        broker = await open_broker()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            progress, result = run.progress(), run.succeeded()
            monkeypatch.setattr(operations.Report, "patience", 0.1)
            monkeypatch.setattr(operations.Settle, "patience", FAR)
            with open(f"{path}.d/lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                told, settled = delivery.append(progress), delivery.ack(result)
                with pytest.raises(BrokerUnavailable, match="does not let go"):
                    await told
            with pytest.raises(BrokerUnavailable, match="what comes before it"):
                await settled
            await delivery.ack(progress, result)
        assert story(await shown(broker)) == ["queued", "running", "running", "succeeded"]

    async def test_a_blocked_event_loop_keeps_its_lease(self, path, open_broker, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", 0.4)
        broker = await open_broker()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                seen = set()
                while len(seen) < 4:
                    seen.add(db.execute("SELECT until FROM holder").fetchone())
            await finish(delivery)

    async def test_many_operations_share_a_commit(self, open_broker, monkeypatch):
        commits = []
        commit = store.Store._commit
        monkeypatch.setattr(store.Store, "_commit", lambda *args: (commits.append(1), commit(*args)))
        broker = await open_broker()
        await broker.declare(QUEUE)
        commits.clear()
        await asyncio.gather(*(broker.submit([task]) for task in new_tasks(500)))
        assert len(commits) < 50

    async def test_a_checkpoint_loses_nothing(self, path, open_broker, monkeypatch):
        monkeypatch.setattr(store, "CHECKPOINT_PAGES", 1)
        broker, elsewhere = await open_broker(), await open_broker()
        tasks = new_tasks(100)
        await asyncio.gather(*((broker, elsewhere)[place % 2].submit([task]) for place, task in enumerate(tasks)))
        assert len(await log_of(broker)) == 100
        assert path.with_name("work.db-wal").stat().st_size < 2_000_000

    async def test_a_log_at_rest_is_trimmed(self, open_broker, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", 0.2)
        broker = await open_broker(Retention(age=0.05))
        await broker.submit(new_tasks(3))
        while (bounds := await broker.bounds(QUEUE)).first <= bounds.last:
            await asyncio.sleep(0)
        assert bounds.last == 3


class TestDamaged:
    """A task's body cannot be read."""

    @pytest.fixture
    def damage(self, path):
        def damage(task):
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE task SET body = ? WHERE id = ?", (b'{"id":', task.id))

        return damage

    async def test_it_goes_to_the_dead_letters_and_the_rest_goes_on(self, open_broker, damage):
        broker = await open_broker()
        await broker.submit(tasks := new_tasks(3))
        damage(tasks[0])
        damage(tasks[2])
        async with consuming(broker, concurrency=1) as deliveries:
            delivery = await anext(deliveries)
            assert delivery.task == tasks[1]
            await finish(delivery)
            results = await results_of(broker, [task.id for task in tasks])
        for task in (tasks[0], tasks[2]):
            error = results[task.id].error
            assert (error.type, "cannot be read" in error.message) == ("undecodable", True)
        assert (await broker.counts())[QUEUE]["failed"] == 2

    async def test_it_expires_all_the_same(self, open_broker, damage):
        broker = await open_broker()
        await broker.submit([task := new_task(owner="ann", expires_at=seconds_from_now(0.5))])
        damage(task)
        result = await result_of(broker, task.id)
        assert (result.error.type, result.owner, result.attempt) == ("expired", "ann", 1)

    async def test_a_defect_is_nobodys_success(self, path, open_broker, damage):
        broker = await open_broker()
        await broker.submit([task := new_task()])
        damage(task)
        with open(f"{path}.d/lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            asked = [asyncio.ensure_future(broker.submit([each])) for each in (task, new_task())]
            await turns()
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, BrokerUnavailable)
            assert "a defect of queuecast" in str(answer)
        await broker.submit([new_task()])
        assert len(await log_of(broker)) == 2

    async def test_a_consumer_outlives_a_neighbours_defect(self, path, open_broker, damage):
        broker = await open_broker()
        await broker.submit([task := new_task(delay=FAR)])
        damage(task)
        async with consuming(broker) as deliveries:
            with open(f"{path}.d/lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                refused = asyncio.ensure_future(broker.submit([task]))
                next_ = asyncio.ensure_future(anext(deliveries))
                await turns()
            with pytest.raises(BrokerUnavailable):
                await refused
            await broker.submit([another := new_task()])
            assert (await next_).task == another


class TestLists:
    """A page of a list is found by an index that lies in its order, whatever else the queue holds."""

    @pytest.fixture
    def plan_of(self, path):
        def plan_of(number: int, state: str | None, owner: str | None) -> list[str]:
            ran: list[str] = []
            with closing(sqlite3.connect(path)) as db:
                db.set_trace_callback(ran.append)
                reads.statuses(db, number, QUEUE, state=state, owner=owner, before=None, limit=10)
                db.set_trace_callback(None)
                return [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {ran[-1]}")]

        return plan_of

    @pytest.mark.parametrize("state", STATES)
    async def test_of_one_state(self, open_broker, plan_of, state):
        number = await (await open_broker())._number(QUEUE)
        plan = plan_of(number, state, None)
        assert "task_state (queue=? AND state=? AND rowid>? AND rowid<?" in plan[0]
        assert not any("TEMP B-TREE" in step for step in plan)

    async def test_of_one_owner(self, open_broker, plan_of, monkeypatch):
        number = await (await open_broker())._number(QUEUE)
        assert "task_owner (queue=? AND owner=? AND rowid>? AND rowid<?" in plan_of(number, None, "ann")[0]
        assert "task_state (queue=? AND state=?" in plan_of(number, "running", "ann")[0]
        monkeypatch.setattr(reads, "FEW", -1)
        plan = plan_of(number, "running", "ann")
        assert "task_owner (queue=? AND owner=? AND rowid>? AND rowid<?" in plan[0]
        assert not any("TEMP B-TREE" in step for step in plan)

    async def test_of_a_file_that_an_older_version_has_written(self, path, open_broker):
        broker = await open_broker()
        await broker.submit([task := new_task()])
        await broker.close()
        with closing(sqlite3.connect(path)) as db:
            db.executescript("""
                DROP INDEX task_state;
                CREATE INDEX task_ended_badly ON task (state) WHERE state IN ('failed', 'cancelled');
                PRAGMA user_version=1;
            """)
        broker = await open_broker()
        assert [status.id for status in await broker.statuses(QUEUE, state="queued")] == [task.id]
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (database.VERSION,)


class Failing:
    """A connection whose next COMMIT fails as if the disk did, after it has landed or before, as `lands` says."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.lands: bool | None = None
        self.code = sqlite3.SQLITE_IOERR_FSYNC

    def __getattr__(self, name: str):
        return getattr(self._db, name)

    def execute(self, sql: str, *parameters):
        if sql != "COMMIT" or self.lands is None:
            return self._db.execute(sql, *parameters)
        self._db.execute("COMMIT" if self.lands else "ROLLBACK")
        self.lands = None
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = self.code
        raise error


class TestFailing:
    @pytest.fixture
    def connections(self, monkeypatch) -> list[Failing]:
        made: list[Failing] = []

        def open_database(place):
            made.append(Failing(database.open_database(place)))
            return made[-1]

        monkeypatch.setattr(store, "open_database", open_database)
        return made

    async def test_a_failed_commit_that_did_not_land_is_a_no(self, open_broker, connections):
        broker = await open_broker()
        await broker.declare(QUEUE)
        connections[0].lands = False
        with pytest.raises(BrokerUnavailable):
            await broker.submit([new_task()])
        await broker.submit([task := new_task()])
        assert [event.id for event in await log_of(broker)] == [task.id]

    async def test_a_failed_commit_that_landed_is_a_yes(self, open_broker, connections):
        broker = await open_broker()
        await broker.declare(QUEUE)
        connections[0].lands = True
        [receipt] = await broker.submit([task := new_task()])
        assert receipt.created
        assert [event.id for event in await log_of(broker)] == [task.id]

    async def test_where_nobody_can_look_the_outcome_is_unknown(self, open_broker, connections, monkeypatch):
        broker = await open_broker()
        await broker.declare(QUEUE)
        connections[0].lands = True
        with monkeypatch.context() as patch:
            patch.setattr(store, "connect", self.no_connection)
            with pytest.raises(OutcomeUnknown):
                await broker.submit([task := new_task()])
        [receipt] = await broker.submit([task])
        assert not receipt.created, "asking again with the same id tells"

    def no_connection(self, *_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    @pytest.mark.parametrize("lands", [True, False])
    async def test_a_workers_result_outlives_a_failed_commit(self, open_broker, connections, lands):
        broker = await open_broker()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            connections[0].lands = lands
            await delivery.ack(run.succeeded())
        assert story(await log_of(broker)) == ["queued", "running", "succeeded"]

    async def test_a_consumer_outlives_a_failed_commit(self, open_broker, connections):
        broker, elsewhere = await open_broker(), await open_broker()
        await elsewhere.submit([task := new_task()])
        await broker.declare(QUEUE)
        connections[0].lands = False
        async with consuming(broker) as deliveries:
            assert (await anext(deliveries)).task == task

    async def test_a_look_that_failed_is_repeated(self, open_broker, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", LEASE)
        broker, elsewhere = await open_broker(), await open_broker()
        peek = store.Store.peek

        def failing(*_):
            monkeypatch.setattr(store.Store, "peek", peek)
            raise BrokerUnavailable("the disk fails")

        async with consuming(broker) as deliveries, meanwhile(anext(deliveries)) as [next_]:
            await a_round_trip(broker)
            monkeypatch.setattr(store.Store, "peek", failing)
            await elsewhere.submit([task := new_task()])
            assert (await next_).task == task
        assert store.Store.peek is peek

    async def test_what_a_peer_that_stands_still_would_have_taken_is_taken(self, open_broker, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", LEASE)
        broker, stopped = await open_broker(), await open_broker()
        goes_on = threading.Event()
        async with (
            consuming(stopped) as theirs,
            consuming(broker) as ours,
            meanwhile(anext(theirs), anext(ours)) as [_, next_],
        ):
            await a_round_trip(broker)
            await stopped.submit([task := new_task(delay=0.3)])
            with monkeypatch.context() as patch:
                patch.setattr(stopped._writer, "_round", goes_on.wait)
                try:
                    assert (await next_).task == task
                finally:
                    goes_on.set()

    async def test_what_waits_to_be_tried_again_is_answered_after_a_defect(self, open_broker, connections, monkeypatch):
        broker = await open_broker()
        await broker.submit([new_task()])
        enter = place.Turn.__enter__

        def fail_after_the_commit(turn):
            if connections[0].lands is None:
                monkeypatch.setattr(place.Turn, "__enter__", enter)
                raise OSError("no locks available")
            enter(turn)

        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            connections[0].lands = False
            monkeypatch.setattr(place.Turn, "__enter__", fail_after_the_commit)
            with pytest.raises(BrokerUnavailable, match="no locks available"):
                await delivery.ack(run.succeeded())

    async def test_peers_that_cannot_be_woken_stop_nothing(self, open_broker, monkeypatch):
        broker = await open_broker()
        await broker.declare(QUEUE)

        def tell(*_):
            raise OSError("bad file descriptor")

        monkeypatch.setattr(peers.Peers, "tell", tell)
        for task in new_tasks(3):
            await broker.submit([task])
        assert len(await log_of(broker)) == 3

    async def test_when_the_thread_ends_everyone_is_told_why(self, path, open_broker, monkeypatch):
        broker = await open_broker()
        await broker.submit([new_task()])
        lost = []

        def wait(*_):
            raise OSError("too many of something")

        async with (
            aclosing(broker.consume(QUEUE, 1, lost.append)) as deliveries,
            aclosing(broker.read(QUEUE, 2)) as log,
        ):
            delivery = await anext(deliveries)
            await begin(delivery)
            waiting = [asyncio.ensure_future(anext(each)) for each in (deliveries, log)]
            await turns()
            with monkeypatch.context() as patch:
                patch.setattr(peers.Peers, "wait", wait)
                await broker.post(b"{}")
                for each in await asyncio.gather(*waiting, return_exceptions=True):
                    assert isinstance(each, BrokerUnavailable)
                    assert "too many of something" in str(each)
                with pytest.raises(BrokerUnavailable, match="too many of something"):
                    await broker.submit([new_task()])
                await broker.close()
        assert lost == [delivery]
        assert [each.name for each in Path(f"{path}.d").iterdir()] == ["lock"]
        await broker.open()
        assert len(await log_of(broker)) == 2

    async def test_a_full_disk_is_said_to_be_full(self, open_broker, connections):
        broker = await open_broker()
        await broker.declare(QUEUE)
        connections[0].lands, connections[0].code = False, sqlite3.SQLITE_FULL
        with pytest.raises(StorageFull):
            await broker.submit([new_task()])
        await broker.submit([new_task()])
        assert len(await log_of(broker)) == 1

    async def test_nothing_of_a_run_is_written_after_what_the_disk_refused(
        self, path, open_broker, connections, monkeypatch
    ):
        """There is room again too late for a run's progress, and in time for its result."""
        broker = await open_broker()
        await broker.submit([new_task()])
        async with consuming(broker) as deliveries:
            delivery = await anext(deliveries)
            run = await begin(delivery)
            progress, result = run.progress(), run.succeeded()
            monkeypatch.setattr(operations.Report, "patience", 0.0)
            monkeypatch.setattr(operations.Settle, "patience", FAR)
            connections[0].lands, connections[0].code = False, sqlite3.SQLITE_FULL
            told, settled = delivery.append(progress), delivery.ack(result)
            with pytest.raises(StorageFull):
                await told
            with pytest.raises(BrokerUnavailable, match="what comes before it"):
                await settled
            await delivery.ack(progress, result)
        assert story(await shown(broker)) == ["queued", "running", "running", "succeeded"]

    async def test_a_disk_that_is_nearly_full_is_spoken_of_twice(
        self, path, open_broker, connections, caplog, monkeypatch
    ):
        """Once when it begins and once when it ends, though small writes land in between."""
        broker = await open_broker()
        await broker.declare(QUEUE)
        for _ in range(3):
            connections[0].lands, connections[0].code = False, sqlite3.SQLITE_FULL
            with pytest.raises(StorageFull):
                await broker.submit([new_task()])
            await broker.submit([new_task()])
        told = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert [f"{path}: no room" in message for message in told] == [True]
        monkeypatch.setattr(room, "CALM_SECONDS", 0.0)
        await broker.submit([new_task()])
        await broker.submit([new_task()])
        told = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert told[1:] == [f"{path}: there is room again"]


def delete(path):
    path.unlink()


def delete_everything(path):
    for each in path.parent.glob("work.db*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def replace(path):
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        db.backup(copy)
    path.with_name("copy").rename(path)


def delete_the_lock(path):
    shutil.rmtree(f"{path}.d")


async def until_refused(broker):
    """What the writer is just about to take may still be taken."""
    while True:
        try:
            await broker.submit([new_task()])
        except BrokerUnavailable as refusal:
            return str(refusal)


class TestGone:
    """The file is taken away under the processes that have it open."""

    @pytest.mark.parametrize("take_away", [delete, delete_everything, replace, delete_the_lock])
    async def test_nothing_more_is_taken_and_everyone_is_told_what_to_do(
        self, path, open_broker, monkeypatch, caplog, take_away
    ):
        monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
        broker = await open_broker()
        await broker.submit([new_task()])
        lost = []
        broker.on_end = lost.append
        async with aclosing(broker.read(QUEUE, 1)) as log:
            waiting = asyncio.ensure_future(anext(log))
            await turns()
            take_away(path)
            words = f"{path} was deleted, moved or replaced while it was open"
            assert words in await until_refused(broker)
            for call in (lambda: waiting, broker.counts):
                with pytest.raises(BrokerUnavailable, match=words):
                    await call()
        assert [words in reason for reason in lost] == [True]
        assert [words in record.message for record in caplog.records if record.levelname == "CRITICAL"] == [True]

    async def test_a_writer_at_rest_notices_it_with_its_duties(self, path, open_broker, monkeypatch):
        monkeypatch.setattr(duties, "LEASE_SECONDS", 0.2)
        broker = await open_broker()
        gone = asyncio.get_running_loop().create_future()
        broker.on_end = gone.set_result
        path.unlink()
        assert "was deleted" in await gone

    async def test_what_came_to_its_place_keeps_its_write_ahead_log(self, path, open_broker, monkeypatch):
        """Whoever closes a database last removes the log by its path."""
        monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
        old = await open_broker()
        await old.submit([new_task()])
        delete_everything(path)
        new = await open_broker()
        task = new_task()
        await new.submit([task])
        await until_refused(old)
        await old.close()
        assert path.with_name("work.db-wal").exists()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT id FROM tasks").fetchall() == [(task.id,)]

    async def test_it_can_be_opened_anew(self, path, open_broker, monkeypatch):
        monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0)
        broker = await open_broker()
        path.unlink()
        await until_refused(broker)
        await broker.close()
        await broker.open()
        await broker.submit([new_task()])
        assert len(await log_of(broker)) == 1

    def test_no_file_is_made_in_its_place(self, path):
        where = place.Place(str(path))
        where.prepare()
        opened = store.Store(where, "token", syncs=False)
        with opened.turn:
            opened.open()
        path.unlink()
        opened.close()
        with pytest.raises(BrokerUnavailable, match="was deleted"):
            opened.peek("SELECT 1", ())
        assert not path.exists()
        opened.turn.close()


class TestPeers:
    def test_what_is_told_is_heard(self):
        changes = [peers.Change(1, True), peers.Change(70_000, False)]
        news = peers.decode(peers.encode(changes) + peers.HELLO)
        assert news == peers.News(changes, newcomer=True, everything=False)

    def test_the_same_twice_is_heard_once(self):
        assert peers.decode(peers.encode([peers.Change(3, True)]) * 5).changes == [peers.Change(3, True)]

    @pytest.fixture
    def two(self, tmp_path):
        pair = [peers.Peers(tmp_path, name) for name in ("one", "two")]
        for each in pair:
            each.join()
        yield pair
        for each in pair:
            each.let_go()

    def test_a_newcomer_greets(self, two, tmp_path):
        one, _ = two
        assert peers.decode(os.read(one.inbox, 100)).newcomer
        assert not one.scan()
        assert one.alive("two")

    def test_who_hears_too_much_looks_everywhere(self, two):
        one, other = two
        for _ in range(20):
            other.tell(peers.encode([peers.Change(number, False) for number in range(1, 1_001)]))
        assert peers.decode(os.read(one.inbox, 1 << 20)).everything

    def test_a_death_is_noticed_at_once(self, two, tmp_path):
        one, other = two
        one.scan()
        other.let_go()
        assert one.wait(20.0)
        assert not one.alive("two")
        one.bury()
        assert [path.name for path in tmp_path.iterdir()] == ["one.fifo"]

    def test_the_dead_are_found_where_nobody_knew_them(self, two):
        one, other = two
        other.let_go()
        assert one.scan()

    def test_a_ring_before_the_sleep_is_not_lost(self, two):
        one, _ = two
        one.ring()
        assert not one.wait(20.0)
