"""PostgresQueue beside the contract of every queue: what is shared, what breaks, transactions."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import penstock.sync
from brokers.postgres.server import PostgresServer
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import QueueStateError, RetryPolicy
from penstock.brokers.engine import BrokerProcess
from penstock.brokers.postgres import (
    PostgresQueue,
    SqlSettings,
    existing_settings,
    init,
    status,
    vacuum,
)
from penstock.errors import BrokerError, QueueUnknownError
from penstock.protocols import Queue

pytestmark = pytest.mark.real_time

MakeQueue = Callable[..., PostgresQueue[Any]]


def again(attempts: int = 3) -> RetryPolicy:
    return RetryPolicy(attempts, on=LookupError, backoff=lambda attempt, error: 0.0, budget=None)


def execute(url: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """By somebody who knows nothing of penstock."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def documented_statements() -> list[list[str]]:
    """The blocks of SQL in the documentation."""
    page = (Path(__file__).parents[3] / "docs/how-to/postgresql.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [[one.strip() for one in block.split(";") if one.strip()] for block in blocks]


def disconnect_all(url: str) -> None:
    execute(
        url,
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid != pg_backend_pid()",
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

    async def test_stop_closes_its_connections(self, make_queue: MakeQueue, url: str) -> None:
        queue = make_queue()
        await queue.start_workers(Worker(), 2)
        await put_all(queue, 1, 2)
        await soon(queue.join())
        await soon(queue.stop())
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock' "
        count += "AND datname = current_database()"
        await until(lambda: execute(url, count) == [(0,)])

    def test_a_loop_that_is_closed_without_a_stop_leaves_the_queue_usable(
        self, postgres_server: PostgresServer
    ) -> None:
        queue = PostgresQueue[int](postgres_server.url, "a-loop-is-closed")

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

    async def test_all_must_give_the_same_settings(self, make_queue: MakeQueue) -> None:
        await make_queue(maxsize=5).start()
        with pytest.raises(BrokerError, match="maxsize is 5 there and 6 here; ack_wait is 30"):
            await make_queue(maxsize=6, ack_wait=31).start()

    async def test_many_may_make_it_at_the_same_time(self, make_queue: MakeQueue) -> None:
        queues = [make_queue(maxsize=5) for _ in range(4)]
        await asyncio.gather(*(queue.start() for queue in queues))
        assert await queues[0].put_many(list(range(9)), timeout=0) == 5


class TestPool:
    async def test_of_the_caller_is_used_and_stays_open(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        async with AsyncConnectionPool(url, min_size=1, max_size=2, open=False) as pool:
            queue, other, worker = make_queue(pool), make_queue(), Worker()
            await queue.start_workers(worker, 2)
            await other.start()
            for item in range(3):
                await put_all(other, item)
                await until(lambda item=item: item in worker.done)
            await soon(queue.join())
            await queue.stop()
            async with pool.connection() as connection:
                assert connection.autocommit is False

    async def test_that_is_not_open_is_told(self, make_queue: MakeQueue, url: str) -> None:
        queue = make_queue(AsyncConnectionPool(url, open=False))
        with pytest.raises(BrokerError, match=r"await pool\.open"):
            await queue.start()

    def test_that_blocks_is_told(self, url: str) -> None:
        with pytest.raises(TypeError, match="AsyncConnectionPool, got ConnectionPool"):
            PostgresQueue(ConnectionPool(url, open=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("listen", [True, False])
class TestNews:
    async def test_a_worker_of_another_process_is_woken(
        self, make_queue: MakeQueue, listen: bool
    ) -> None:
        producer, consumer, worker = make_queue(), make_queue(listen=listen), Worker()
        await producer.start()
        await consumer.start_workers(worker, 2)
        for item in range(5):
            await put_all(producer, item)
            await until(lambda item=item: item in worker.done)

    async def test_a_put_that_waits_hears_of_room_that_another_made(
        self, make_queue: MakeQueue, listen: bool
    ) -> None:
        producer = make_queue(maxsize=1, listen=listen)
        consumer, worker = make_queue(maxsize=1), Worker(held=True)
        await producer.start()
        await put_all(producer, "a")
        put = asyncio.create_task(producer.put("b", timeout=30))
        await until(lambda: producer.statistics().waiting_putters == 1)
        await consumer.start_workers(worker, 1)
        worker.may_go_on.set()
        assert await soon(put) is True


class TestShared:
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

    async def test_schemas_side_by_side(self, make_queue: MakeQueue, url: str) -> None:
        await init(url, schema="other")
        one, other = make_queue(maxsize=1), make_queue(maxsize=2, schema="other")
        worker = Worker()
        await one.start()
        await other.start_workers(worker, 1)
        await put_all(one, "one")
        await put_all(other, "other")
        await soon(other.join())
        assert worker.done == ["other"]
        assert (await one.info()).size == 1


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

    async def test_large_items(self, make_queue: MakeQueue) -> None:
        queue, worker = make_queue(), Worker()
        await queue.start()
        items = [f"{number}{'x' * 7_000_000}" for number in range(4)]
        assert await queue.put_many(items) == 4
        await asyncio.gather(*(queue.put(item) for item in items[:2]))
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == items + items[:2]


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
    async def test_connections_that_broke_are_made_anew(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue, other, worker = make_queue(), make_queue(), Worker()
        await other.start()
        await queue.start_workers(worker, 2)
        for item in range(3):
            disconnect_all(url)
            assert await queue.put(item) is True  # it was known to be broken, so it is no guess
            await until(lambda item=item: item in worker.done)
            await put_all(other, f"other {item}")
            await until(lambda item=item: f"other {item}" in worker.done)

    async def test_a_put_under_way_when_the_connection_breaks_is_unknown(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue = make_queue()
        await queue.start()
        theirs = await psycopg.AsyncConnection.connect(url)
        async with theirs:  # one with the same id waits for it
            assert await queue.put("a", id="7", connection=theirs) is True
            put = asyncio.create_task(queue.put("a", id="7"))
            waits = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
            await until(lambda: execute(url, waits) == [(True,)])
            with pytest.raises(QueueUnknownError) as raised:
                await soon(put)
            assert raised.value.message_id == "7"
        assert await queue.put("a", id="7") is True
        assert (await queue.info()).size == 1

    async def test_headers_of_no_use_do_not_hold_an_item_up(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue, worker = make_queue(), Worker()
        await queue.start()
        await put_all(queue, "a", "b")
        execute(url, "UPDATE penstock.slots SET headers = '{' WHERE slot = 1")
        execute(url, "UPDATE penstock.slots SET headers = '[]' WHERE slot = 2")
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == ["a", "b"]

    async def test_a_database_that_was_not_prepared(self, url: str) -> None:
        queue = PostgresQueue[int](url, schema="elsewhere")
        with pytest.raises(BrokerError, match="penstock postgres init --schema elsewhere"):
            await queue.start()

    async def test_one_that_a_newer_penstock_prepared(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        execute(url, "UPDATE penstock.schema_version SET version = 99")
        with pytest.raises(BrokerError, match="version 99, and this one knows"):
            await make_queue().start()
        with pytest.raises(BrokerError, match="Upgrade penstock here"):
            await init(url)

    async def test_a_server_that_is_not_there_is_named_without_the_password(self) -> None:
        queue = PostgresQueue[int]("postgresql://me:secret@127.0.0.1:1/shop")
        with pytest.raises(BrokerError, match=r"PostgreSQL at 127\.0\.0\.1:1 \(shop\)") as raised:
            await queue.start()
        assert "secret" not in str(raised.value)


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
        await put_all(first, "aa", "b", "c")
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
        with pytest.raises(QueueStateError):
            await first.info()

    async def test_settings_are_those_that_the_queue_was_made_with(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        assert await existing_settings(url, "calls") is None
        async with make_queue(name="calls", maxsize=7, ack_wait=5, dedupe=60):
            settings = await existing_settings(url, "calls")
        assert settings == SqlSettings(maxsize=7, ack_wait=5.0, dedupe=60.0)
        async with make_queue(name="calls", **settings.as_arguments()) as queue:
            assert queue.maxsize == 7

    async def test_status_and_vacuum(self, make_queue: MakeQueue, url: str) -> None:
        async with make_queue(name="calls", maxsize=7) as queue:
            await put_all(queue, 1, 2)
            told = await status(url)
            assert (told.version, told.newest, told.queues) == (1, 1, {"calls": (2, 7)})
            assert {table.name for table in told.tables} >= {"slots", "dead_letters"}
            await vacuum(url)
        assert (await status(url, schema="nowhere")).version == 0
        with pytest.raises(BrokerError, match="penstock postgres init"):
            await vacuum(url, schema="nowhere")

    async def test_init_again_changes_nothing_also_at_the_same_time(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        async with make_queue() as queue:
            await put_all(queue, 1)
            assert await asyncio.gather(*(init(url) for _ in range(4))) == [1] * 4
            assert (await queue.info()).size == 1
        assert await asyncio.gather(*(init(url, schema="new") for _ in range(4))) == [1] * 4


class TestCallersTransaction:
    async def test_the_item_is_there_when_it_commits_and_not_before(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue, worker = make_queue(), Worker()
        await queue.start_workers(worker, 1)
        async with await psycopg.AsyncConnection.connect(url) as theirs:
            await theirs.execute("CREATE TABLE orders (id integer)")
            assert await queue.put("a", connection=theirs) is True
            assert (await queue.info()).size == 0
            await theirs.commit()
        await until(lambda: worker.done == ["a"])

    async def test_a_rollback_leaves_neither_the_item_nor_its_id(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue = make_queue(maxsize=1)
        await queue.start()
        async with await psycopg.AsyncConnection.connect(url) as theirs:
            assert await queue.put("a", id="7", connection=theirs) is True
            await theirs.rollback()
        assert await queue.put("b", id="7") is True
        assert (await queue.info()).size == 1

    async def test_it_waits_for_room_only_if_it_is_told_to(
        self, make_queue: MakeQueue, url: str
    ) -> None:
        queue, worker = make_queue(maxsize=1, timeout=3600), Worker()
        await queue.start()
        await put_all(queue, "a")
        async with await psycopg.AsyncConnection.connect(url) as theirs:
            assert await soon(queue.put("b", connection=theirs)) is False
            put = asyncio.create_task(queue.put("b", timeout=30, connection=theirs))
            await until(lambda: queue.statistics().waiting_putters == 1)
            await queue.start_workers(worker, 1)
            assert await soon(put) is True
        await until(lambda: worker.done == ["a", "b"])

    async def test_of_a_connection_that_blocks(self, make_queue: MakeQueue, url: str) -> None:
        queue, worker = make_queue(maxsize=2), Worker()
        await queue.start()
        with psycopg.connect(url, row_factory=dict_row) as theirs:
            assert queue.put_in(theirs, "rolled back") is True
            theirs.rollback()
            assert queue.put_in(theirs, "a", id="7") is True
            assert queue.put_in(theirs, "b", id="7") is True
            assert queue.put_in(theirs, "c") is True
            assert queue.put_in(theirs, "d") is False
        await queue.start_workers(worker, 1)
        await soon(queue.join())
        assert worker.done == ["a", "c"]

    async def test_the_queue_must_be_there(self, make_queue: MakeQueue, url: str) -> None:
        queue = make_queue(name="nowhere")
        with psycopg.connect(url) as theirs:
            with pytest.raises(BrokerError, match="there is no queue nowhere"):
                queue.put_in(theirs, "a")
            theirs.rollback()

    async def test_wrong_connections_are_told(self, make_queue: MakeQueue, url: str) -> None:
        queue = make_queue()
        await queue.start()
        with psycopg.connect(url) as blocking, pytest.raises(TypeError, match="put_in"):
            await queue.put("a", connection=blocking)
        async with await psycopg.AsyncConnection.connect(url) as theirs:
            with pytest.raises(TypeError, match=r"await put\(item, connection"):
                queue.put_in(theirs, "a")
        with pytest.raises(TypeError, match="got str"):
            queue.put_in(url, "a")


@contextmanager
def granted(url: str, role: str, statements: list[str]) -> Iterator[str]:
    """A role that may do what ``statements`` of the documentation grant; its URL."""
    own = f"{role}_{os.getpid()}"
    execute(url, f"CREATE ROLE {own} LOGIN")
    try:
        for statement in statements:
            execute(url, statement.replace(f" TO {role}", f" TO {own}"))
        yield url.replace("tests@", f"{own}@")
    finally:
        execute(url, f"DROP OWNED BY {own}")
        execute(url, f"DROP ROLE {own}")


class TestDocumentedStatements:
    async def test_a_put_by_any_program(self, make_queue: MakeQueue, url: str) -> None:
        queue = make_queue(name="invoices")
        await queue.start()
        ((put,), _, _) = documented_statements()
        assert [execute(url, put) for _ in range(2)] == [[("new",)], [("duplicate",)]]
        assert await queue.get(timeout=10) == {"order": 1}
        queue.task_done()
        await queue.join()

    async def test_a_role_that_may_only_put(self, make_queue: MakeQueue, url: str) -> None:
        await make_queue().start()  # by whom may make it
        (_, grants, _) = documented_statements()
        with granted(url, "web", grants) as theirs:
            queue = make_queue(theirs)
            await queue.start()
            assert await queue.put("a") is True
            assert await queue.put("b", id="7") is True
            assert await queue.put_many(["c", "d"]) == 2
            with pytest.raises(BrokerError, match="does not let us"):
                await queue.pause_all()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                execute(theirs, "SELECT * FROM penstock.take(1, 1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                execute(theirs, "SELECT data FROM penstock.slots")
            await queue.stop()

    async def test_a_worker_that_is_not_the_owner(self, make_queue: MakeQueue, url: str) -> None:
        (_, _, grants) = documented_statements()
        with granted(url, "worker", grants) as theirs:
            queue = make_queue(theirs)
            await queue.start()
            assert await queue.put("a") is True
            assert await queue.get(timeout=10) == "a"
            queue.task_done()
            await queue.join()
            await queue.stop()


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"dsn_or_pool": 5}, TypeError, "dsn_or_pool must be a str"),
        ({"dsn_or_pool": "me:secret@host"}, ValueError, "dsn_or_pool must be like postgresql://"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"maxsize": 0}, ValueError, "maxsize must be at least 1"),
        ({"maxsize": 2_000_000}, ValueError, "maxsize must be at most 1,000,000"),
        ({"ack_wait": 0.5}, ValueError, "ack_wait must be at least 1 second"),
        ({"schema": "Mine"}, ValueError, "schema must be up to 40 small letters"),
        ({"schema": "pg_mine"}, ValueError, "not with pg_, got 'pg_mine'"),
        ({"schema": None}, TypeError, "schema must be a str"),
        ({"max_deliveries": 3, "retry": again(3)}, ValueError, "more than the 3 attempts"),
    ],
)
def test_arguments_that_cannot_be_are_told(
    arguments: dict[str, Any], error: type[Exception], problem: str
) -> None:
    given: dict[str, Any] = {"dsn_or_pool": "postgresql://localhost/shop", **arguments}
    with pytest.raises(error, match=problem) as raised:
        PostgresQueue(**given)
    assert "secret" not in str(raised.value)


def test_threads_have_it_too(postgres_server: PostgresServer) -> None:
    done: list[int] = []
    inner = PostgresQueue[int](postgres_server.url, "threads", maxsize=10)
    with penstock.sync.WorkQueue[int](queue=inner) as queue:
        queue.process(done.append, num_workers=2)
        for number in range(20):
            assert queue.put(number, timeout=30)
        with psycopg.connect(postgres_server.url) as theirs:
            assert inner.put_in(theirs, 20) is True
        assert queue.join(timeout=30)
    assert sorted(done) == list(range(21))
