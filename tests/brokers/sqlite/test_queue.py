"""SqliteQueue beside the contract of every queue: what lasts, what is shared, its blocking face."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import penstock.sync
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import QueueStateError, RetryPolicy, WorkQueue
from penstock.brokers.engine import BrokerProcess
from penstock.brokers.sqlite import SqliteQueue, SqlSettings, existing_settings
from penstock.errors import BrokerError, CodecError
from penstock.protocols import Queue
from sync.helpers import queue_threads, run_program

pytestmark = pytest.mark.real_time

MakeQueue = Callable[..., SqliteQueue[Any]]


@pytest.fixture
async def make_queue(path: Path) -> AsyncIterator[MakeQueue]:
    """Make a queue in the file of the test. Each stands for a process."""
    made: list[SqliteQueue[Any]] = []

    def make(**settings: Any) -> SqliteQueue[Any]:
        queue: SqliteQueue[Any] = SqliteQueue(path, **settings)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        await queue.stop(timeout=0)


def again(attempts: int = 3, backoff: float = 0.0) -> RetryPolicy:
    return RetryPolicy(
        attempts, on=LookupError, backoff=lambda attempt, error: backoff, budget=None
    )


class TestLife:
    async def test_it_is_a_queue(self, make_queue: MakeQueue) -> None:
        assert isinstance(make_queue(), Queue)

    async def test_it_is_there_after_a_restart(self, make_queue: MakeQueue) -> None:
        first = make_queue()
        await first.start()
        await put_all(first, {"n": 1}, "é", [None, 1.5])
        assert await first.stop() is False  # something is left
        worker = Worker()
        second = make_queue()
        await second.start_workers(worker, 1)
        assert second.size == 3
        await soon(second.join())
        assert worker.done == [{"n": 1}, "é", [None, 1.5]]
        assert await second.stop() is True

    async def test_stop_ends_its_thread_and_closes_the_file(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        before = queue_threads()
        queue = make_queue()
        await queue.start_workers(Worker(), 2)
        await put_all(queue, 1, 2)
        await soon(queue.join())
        await soon(queue.stop())
        await until(lambda: queue_threads() <= before)
        assert os.listdir(path.parent) == [path.name]  # what is beside it is gone with the last

    async def test_a_file_that_cannot_be_used_fails_the_start(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        os.mkdir(path)
        queue = make_queue()
        with pytest.raises(BrokerError, match="it is a folder"):
            await queue.start()
        os.rmdir(path)
        await queue.start()  # and it can be tried again
        await put_all(queue, 1)

    async def test_all_must_give_the_same_settings(self, make_queue: MakeQueue) -> None:
        await make_queue(maxsize=5).start()
        with pytest.raises(BrokerError, match="maxsize is 5 there and 6 here; ack_wait is 30"):
            await make_queue(maxsize=6, ack_wait=31).start()

    def test_a_loop_that_is_closed_without_a_stop_leaves_the_queue_usable(self, path: Path) -> None:
        queue = SqliteQueue[int](path)

        async def put() -> None:
            await queue.start()
            await put_all(queue, 1)

        asyncio.run(put())

        async def process() -> None:
            worker = Worker()
            await queue.start_workers(worker, 1)
            await soon(queue.join())
            assert worker.done == [1]
            await queue.stop()

        asyncio.run(process())


class TestShared:
    async def test_a_worker_of_another_process_is_woken(self, make_queue: MakeQueue) -> None:
        producer, consumer, worker = make_queue(), make_queue(), Worker()
        await producer.start()
        await consumer.start_workers(worker, 2)
        for item in range(5):
            await put_all(producer, item)
            await until(lambda item=item: item in worker.done)

    async def test_a_put_that_waits_hears_of_room_that_another_made(
        self, make_queue: MakeQueue
    ) -> None:
        producer, consumer, worker = make_queue(maxsize=1), make_queue(maxsize=1), Worker(held=True)
        await producer.start()
        await put_all(producer, "a")
        put = asyncio.create_task(producer.put("b", timeout=30))
        await until(lambda: producer.statistics().waiting_putters == 1)
        await consumer.start_workers(worker, 1)
        worker.may_go_on.set()
        assert await soon(put) is True

    async def test_a_retry_is_anybodys_and_counts_the_attempts_of_all(
        self, make_queue: MakeQueue
    ) -> None:
        one, other = make_queue(retry=again(3)), make_queue(retry=again(3))
        worker, errors = Worker(), list[str]()
        worker.failures = [LookupError("1"), LookupError("2"), LookupError("3"), LookupError("4")]

        def note(error: Exception, item: str) -> None:
            errors.append(str(error))

        for queue in (one, other):
            await queue.start_workers(worker, 1, note)
        await put_all(one, "a")
        await soon(other.join())
        assert len(worker.began) == 3
        assert errors == ["3"]

    async def test_what_was_in_hand_at_a_stop_is_handed_out_at_once(
        self, make_queue: MakeQueue
    ) -> None:
        first, second = make_queue(), make_queue()
        stuck, heir = Worker(held=True), Worker()
        await first.start_workers(stuck, 1)
        await put_all(first, "a")
        await until(lambda: stuck.began)
        await soon(first.stop(timeout=0))
        await second.start_workers(heir, 1)
        await soon(second.join())
        assert heir.done == ["a"]

    async def test_what_is_put_as_another_kind_becomes_a_dead_letter(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        queue = make_queue()
        await queue.start()
        await put_all(queue, "a")
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE penstock_items SET data = 'no JSON'")
        connection.close()
        worker = Worker()
        await queue.start_workers(worker, 1)
        await until(lambda: queue.statistics().dead_letters == 1)
        (letter,) = await queue.look_at_dead_letters()
        assert (letter.item, letter.data, letter.error_type) == (
            None,
            b"no JSON",
            "penstock.errors.CodecError",
        )
        assert worker.began == []


class TestIds:
    async def test_of_two_puts_with_one_id_one_is_stored_and_both_are_true(
        self, make_queue: MakeQueue
    ) -> None:
        one, other, worker = make_queue(maxsize=2), make_queue(maxsize=2), Worker()
        await one.start()
        await other.start()
        assert await one.put("first", id="7") is True
        assert await other.put("second", id="7") is True
        assert (await one.info()).size == 1
        assert (one.metrics["enqueued"], other.metrics["enqueued"]) == (1, 0)
        await one.start_workers(worker, 1)
        await soon(one.join())
        assert worker.done == ["first"]

    async def test_a_refused_put_leaves_no_id_nor_does_a_rollback(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        queue = make_queue(maxsize=1)
        await queue.start()
        theirs = sqlite3.connect(path)
        assert queue.put_in(theirs, "rolled back", id="8") is True
        theirs.rollback()
        theirs.close()
        await put_all(queue, "a")
        assert await queue.put("b", timeout=0, id="7") is False
        worker = Worker()
        await queue.start_workers(worker, 1)
        for id_ in ("7", "8"):
            await soon(queue.join())
            assert await queue.put(id_, id=id_) is True
        await soon(queue.join())
        assert worker.done == ["a", "7", "8"]

    async def test_are_forgotten_after_a_while(self, make_queue: MakeQueue) -> None:
        queue = make_queue(dedupe=0)
        await queue.start()
        assert await queue.put("a", id="7")
        assert await queue.put("a", id="7")
        assert (await queue.info()).size == 2


class TestPutMany:
    async def test_the_first_that_have_room_are_accepted(self, make_queue: MakeQueue) -> None:
        queue, worker = make_queue(maxsize=600), Worker()
        await queue.start()
        assert await queue.put_many(list(range(1000)), timeout=0) == 600
        assert await queue.put_many([1], timeout=0) == 0
        assert queue.metrics["enqueued"] == 600
        await queue.start_workers(worker, 5)
        await soon(queue.join())
        assert sorted(worker.done) == list(range(600))


class TestPause:
    async def test_of_all_processes(self, make_queue: MakeQueue) -> None:
        one, other, worker = make_queue(), make_queue(), Worker()
        await one.start()
        await other.start_workers(worker, 2)
        await one.pause_all()
        await put_all(one, "a", "b")
        assert (await other.info()).is_paused
        await one.stop()
        await one.start()  # it outlasts all processes
        await put_all(one, "c")
        assert worker.began == []
        await one.resume_all()
        await soon(other.join())
        assert sorted(worker.done) == ["a", "b", "c"]


class TestTrouble:
    async def test_workers_go_on_when_the_lock_is_free_again_and_the_log_says_what_was(
        self, make_queue: MakeQueue, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue, worker = make_queue(busy_timeout=0.05), Worker()
        await queue.start()
        await put_all(queue, "a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerError, match="is locked"):
            await queue.put("b")
        await queue.start_workers(worker, 1)
        await until(lambda: "cannot take items" in caplog.text)
        assert "Have it commit" in caplog.text
        other.execute("COMMIT")
        other.close()
        await until(lambda: worker.done == ["a"])
        await soon(queue.join())

    async def test_headers_of_no_use_do_not_hold_an_item_up(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        queue, worker = make_queue(), Worker()
        await queue.start()
        await put_all(queue, "a", "b", "c")
        theirs = sqlite3.connect(path)
        with theirs:
            theirs.execute("UPDATE penstock_items SET headers = '{\"n\": 1}' WHERE number % 3 = 0")
            theirs.execute("UPDATE penstock_items SET headers = '{' WHERE number % 3 = 1")
            theirs.execute("UPDATE penstock_items SET headers = '[]' WHERE number % 3 = 2")
        theirs.close()
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == ["a", "b", "c"]


class TestDeadLetters:
    async def test_are_kept_with_their_reason_and_put_back(self, make_queue: MakeQueue) -> None:
        queue, worker = make_queue(), Worker()
        worker.failures = [KeyError("no a"), KeyError("no b")]
        await queue.start_workers(worker, 1, lambda error, item: None)
        await put_all(queue, "a", "b")
        await soon(queue.join())
        letters = await queue.look_at_dead_letters()
        assert [(letter.item, letter.error, letter.deliveries) for letter in letters] == [
            ("a", "'no a'", 1),
            ("b", "'no b'", 1),
        ]
        assert letters[0].error_type == "KeyError"
        assert await queue.redrive() == 2
        await soon(queue.join())
        assert worker.done == ["a", "b"]
        assert await queue.look_at_dead_letters() == []

    async def test_what_kills_its_workers_becomes_one(self, make_queue: MakeQueue) -> None:
        queue, stuck = make_queue(max_deliveries=2), Worker(held=True)
        await queue.start()
        await put_all(queue, "bomb")
        for count in (1, 2):  # each stop stands for a death
            await queue.start_workers(stuck, 1)
            await until(lambda count=count: len(stuck.began) == count)
            await queue.stop_workers(timeout=0)
        await queue.start_workers(stuck, 1)
        await until(lambda: queue.statistics().dead_letters == 1)
        (letter,) = await queue.look_at_dead_letters()
        assert "delivered 2 times and never finished" in letter.error


class TestLooking:
    async def test_info_and_processes(self, make_queue: MakeQueue) -> None:
        first, second, held = make_queue(maxsize=3), make_queue(maxsize=3), Worker(held=True)
        await first.start()
        await put_all(first, "aa", "b")
        assert await first.put("c") is True
        assert await first.put("d", timeout=0) is False
        await second.start_workers(held, 1)
        await until(lambda: held.began)
        info = await first.info()
        assert (info.name, info.size, info.maxsize, info.in_flight) == ("default", 3, 3, 1)
        assert (info.dead_letters, info.bytes, info.is_paused) == (0, 10, False)
        (seen,) = await second.processes()
        assert isinstance(seen, BrokerProcess)
        assert seen.pid == os.getpid()
        await soon(first.stop())
        assert await second.processes() == []

    async def test_only_while_it_is_open(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        with pytest.raises(QueueStateError):
            await queue.info()
        with pytest.raises(QueueStateError):
            await queue.processes()


class TestExistingSettings:
    async def test_are_those_that_the_queue_was_made_with(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        async with make_queue(name="calls", maxsize=7, ack_wait=5, dedupe=60):
            settings = await existing_settings(path, "calls")
        assert settings == SqlSettings(maxsize=7, ack_wait=5.0, dedupe=60.0)
        async with make_queue(name="calls", **settings.as_arguments()) as queue:
            assert queue.maxsize == 7
        assert await existing_settings(path, "other") is None

    async def test_asking_makes_nothing(self, path: Path) -> None:
        assert await existing_settings(path, "calls") is None
        assert os.listdir(path.parent) == []
        theirs = sqlite3.connect(path)
        theirs.execute("CREATE TABLE orders (id INTEGER)")
        theirs.close()
        assert await existing_settings(path, "calls") is None
        theirs = sqlite3.connect(path)
        assert theirs.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert theirs.execute("SELECT name FROM sqlite_master").fetchall() == [("orders",)]
        theirs.close()

    async def test_a_file_that_is_no_database(self, path: Path) -> None:
        await asyncio.to_thread(path.write_text, "notes\n" * 1000)
        with pytest.raises(BrokerError, match=r"queue.db is no SQLite database"):
            await existing_settings(path, "calls")


class TestPutIn:
    @pytest.fixture
    def theirs(self, path: Path) -> sqlite3.Connection:
        """A connection of the program, with a table of its own."""
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE orders (id INTEGER)")
        return connection

    async def test_is_accepted_with_the_commit(
        self, make_queue: MakeQueue, theirs: sqlite3.Connection
    ) -> None:
        queue, worker = make_queue(maxsize=1), Worker()
        await queue.start_workers(worker, 1)
        theirs.row_factory = lambda cursor, row: dict(zip("abcdefgh", row, strict=False))
        theirs.execute("INSERT INTO orders VALUES (1)")
        assert queue.put_in(theirs, {"order": 1}) is True
        assert queue.put_in(theirs, {"order": 2}) is False
        theirs.commit()
        await soon(queue.join())
        assert worker.done == [{"order": 1}]
        await until(lambda: queue.metrics["enqueued"] == 1)
        assert queue.metrics["backpressure_events"] == 1
        theirs.close()

    async def test_is_nothing_after_a_rollback(
        self, make_queue: MakeQueue, theirs: sqlite3.Connection
    ) -> None:
        queue = make_queue(maxsize=1)
        await queue.start()
        assert queue.put_in(theirs, 1) is True  # begins a transaction
        assert theirs.in_transaction
        theirs.rollback()
        assert (await queue.info()).size == 0
        assert await queue.put(2, timeout=0) is True
        theirs.close()

    async def test_one_that_fails_leaves_the_transaction_as_it_was(
        self, make_queue: MakeQueue, theirs: sqlite3.Connection
    ) -> None:
        queue = make_queue()
        await queue.start()
        await queue.stop()
        theirs.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(CodecError):
            queue.put_in(theirs, object())
        with pytest.raises(BrokerError, match="has no queue other yet: start"):
            make_queue(name="other").put_in(theirs, 1)
        theirs.commit()
        assert theirs.execute("SELECT count(*) FROM orders").fetchone() == (1,)
        theirs.close()

    async def test_a_file_without_a_queue(
        self, make_queue: MakeQueue, theirs: sqlite3.Connection
    ) -> None:
        with pytest.raises(BrokerError, match="has no queue default yet: start"):
            make_queue().put_in(theirs, 1)
        theirs.close()

    async def test_needs_a_connection_with_a_transaction_to_the_same_file(
        self, make_queue: MakeQueue, path: Path
    ) -> None:
        queue = make_queue()
        await queue.start()
        with pytest.raises(TypeError, match=r"must be a sqlite3.Connection, got str"):
            queue.put_in("connection", 1)  # type: ignore[arg-type]
        memory = sqlite3.connect(":memory:")
        with pytest.raises(
            ValueError, match=r"queue.db, where the queue is, got one to a database"
        ):
            queue.put_in(memory, 1)
        other = sqlite3.connect(path.parent / "other.db")
        with pytest.raises(ValueError, match=r"got one to '.*other.db'"):
            queue.put_in(other, 1)
        manual = sqlite3.connect(path, isolation_level=None)
        with pytest.raises(ValueError, match="execute BEGIN IMMEDIATE first"):
            queue.put_in(manual, 1)
        manual.execute("BEGIN IMMEDIATE")
        assert queue.put_in(manual, 1) is True
        manual.execute("COMMIT")
        assert (await queue.info()).size == 1
        for connection in (memory, other, manual):
            connection.close()

    async def test_a_transaction_that_has_read_before_another_wrote(
        self, make_queue: MakeQueue, theirs: sqlite3.Connection
    ) -> None:
        queue = make_queue()
        await queue.start()
        theirs.execute("BEGIN")
        theirs.execute("SELECT count(*) FROM orders").fetchone()
        await put_all(queue, 1)
        with pytest.raises(BrokerError, match="Begin with BEGIN IMMEDIATE"):
            queue.put_in(theirs, 2)
        theirs.close()


class TestBlockingFace:
    def test_puts_and_processes(self, path: Path) -> None:
        done: list[int] = []
        with penstock.sync.WorkQueue[int](queue=SqliteQueue(path, maxsize=2)) as queue:
            assert queue.put(1, timeout=0)
            assert queue.put(2, timeout=0)
            assert not queue.put(3, timeout=0)
            queue.process(done.append, 1)
            assert queue.join(timeout=30)
        assert sorted(done) == [1, 2]

    def test_put_in_from_any_thread(self, path: Path) -> None:
        inner = SqliteQueue[int](path)
        done: list[int] = []
        with penstock.sync.WorkQueue[int](queue=inner) as queue:
            queue.process(done.append, 1)
            connection = sqlite3.connect(path)
            with connection:
                assert inner.put_in(connection, 7) is True
            connection.close()
            assert queue.join(timeout=30)
        assert done == [7]


class TestArguments:
    @pytest.mark.parametrize(
        ("settings", "error", "says"),
        [
            ({"path": ""}, ValueError, "path must name a file, got ''"),
            ({"path": ":memory:"}, ValueError, "For a queue in memory, take penstock.BoundedQueue"),
            ({"path": 7}, TypeError, "path must be a str or a path, got int"),
            ({"path": b"x"}, TypeError, "path must be a str or a path, got bytes"),
            ({"name": ""}, ValueError, "name"),
            ({"maxsize": 0}, ValueError, "Queue maxsize must be at least 1"),
            ({"ack_wait": 0.5}, ValueError, "ack_wait must be at least 1 second"),
            ({"max_deliveries": 0}, ValueError, "max_deliveries"),
            ({"max_item_size": 0}, ValueError, "max_item_size must be at least 1"),
            ({"synchronous": "OFF"}, ValueError, "synchronous must be 'FULL' or 'NORMAL'"),
            ({"busy_timeout": -1}, ValueError, "busy_timeout"),
            ({"codec": 7}, TypeError, "codec"),
            (
                {"retry": RetryPolicy(20)},
                ValueError,
                "max_deliveries must be more than the 20 attempts of retry, got 20",
            ),
        ],
    )
    def test_bad_ones_are_named(
        self, path: Path, settings: dict[str, Any], error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says):
            SqliteQueue(**{"path": path, **settings})

    async def test_the_folder_of_the_program_may_change(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        queue = SqliteQueue[int]("here.db")
        monkeypatch.chdir("/")
        async with queue:
            assert (path.parent / "here.db").exists()


async def test_a_work_queue_on_it_says_what_it_cannot_do(path: Path) -> None:
    queue = WorkQueue[int](queue=SqliteQueue(path))
    async with queue:
        with pytest.raises(TypeError):
            await queue.submit(1)


def test_a_child_may_start_it_after_a_fork_where_its_parent_did_not(path: Path) -> None:
    outcome = run_program(
        f"""
        import asyncio, os
        from penstock.brokers.sqlite import SqliteQueue

        queue = SqliteQueue({str(path)!r})

        async def put(item):
            async with queue:
                assert await queue.put(item) is True

        for item in range(3):
            child = os.fork()
            if not child:
                asyncio.run(put(item))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert outcome.returncode == 0, outcome.stderr
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM penstock_items").fetchone() == (3,)
    connection.close()
