"""The thread that uses the file: calls of a loop become transactions, and others' changes news."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers.sqlite.helpers import Opened
from penstock.brokers.sqlite.file import SqliteFile
from penstock.brokers.sqlite.thread import SqliteThread
from penstock.errors import BrokerError

pytestmark = pytest.mark.real_time

BOUND = 30.0


class Watched:
    """A thread, and what it told."""

    def __init__(self, path: Path) -> None:
        self.news = asyncio.Event()
        self.thread = SqliteThread(
            lambda: SqliteFile(path, busy_timeout=BOUND), "penstock-test", self.news.set
        )

    async def start(self) -> None:
        self.file = await self.thread.start()

    def note(self, text: str) -> str:
        self.file.connection.execute("INSERT INTO notes VALUES (?)", (text,))
        return text


@pytest.fixture
async def watched(path: Path) -> AsyncIterator[Watched]:
    watched = Watched(path)
    await watched.start()
    await watched.thread.call(
        lambda: watched.file.connection.execute("CREATE TABLE notes (text TEXT)")
    )
    yield watched
    await watched.thread.close()


def notes(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT text FROM notes")]
    connection.close()
    return found


async def held(watched: Watched) -> threading.Event:
    """Hold the thread up until the event that is returned is set."""
    begun, may_go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        loop.call_soon_threadsafe(begun.set)
        may_go_on.wait(BOUND)

    watched.thread.call(wait, writes=False)
    await begun.wait()
    return may_go_on


class TestCall:
    async def test_the_answer_comes_when_it_is_stored(self, watched: Watched, path: Path) -> None:
        assert await watched.thread.call(lambda: watched.note("a")) == "a"
        assert notes(path) == ["a"]

    async def test_calls_that_came_meanwhile_are_one_transaction_in_their_order(
        self, watched: Watched, path: Path
    ) -> None:
        may_go_on = await held(watched)
        statements: list[str] = []
        watched.file.connection.set_trace_callback(statements.append)
        calls = [watched.thread.call(lambda text=text: watched.note(text)) for text in "abc"]
        may_go_on.set()
        assert await asyncio.gather(*calls) == ["a", "b", "c"]
        assert notes(path) == ["a", "b", "c"]
        assert statements.count("COMMIT") == 1

    async def test_one_that_fails_leaves_nothing_and_does_not_touch_the_others(
        self, watched: Watched, path: Path
    ) -> None:
        def fail() -> None:
            watched.note("never")
            raise LookupError("no")

        may_go_on = await held(watched)
        calls = [
            watched.thread.call(lambda: watched.note("a")),
            watched.thread.call(fail),
            watched.thread.call(lambda: watched.note("b")),
        ]
        may_go_on.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[::2] == ["a", "b"]
        assert isinstance(results[1], LookupError)
        assert notes(path) == ["a", "b"]

    async def test_one_that_is_cancelled_before_its_turn_is_left_out(
        self, watched: Watched, path: Path
    ) -> None:
        may_go_on = await held(watched)
        first, second = (watched.thread.call(lambda text=text: watched.note(text)) for text in "ab")
        first.cancel()
        may_go_on.set()
        await second
        assert notes(path) == ["b"]

    async def test_a_lock_that_is_not_let_go_fails_all_that_wait_for_it_at_once(
        self, watched: Watched, path: Path
    ) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        watched.file._busy_timeout = 0.05
        may_go_on = await held(watched)
        calls = [watched.thread.call(lambda: watched.note("a")) for _ in range(3)]
        may_go_on.set()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all("is locked" in str(error) for error in errors)
        other.execute("ROLLBACK")
        other.close()
        assert notes(path) == []

    async def test_close_carries_out_what_came_before(self, path: Path) -> None:
        watched = Watched(path)
        await watched.start()
        call = watched.thread.call(
            lambda: watched.file.connection.execute("CREATE TABLE notes (text TEXT)")
        )
        await watched.thread.close()
        assert call.done()
        assert notes(path) == []


class TestStart:
    async def test_says_what_is_wrong_with_the_file(self, path: Path) -> None:
        os.mkdir(path)
        watched = Watched(path)
        with pytest.raises(BrokerError, match="it is a folder"):
            await watched.start()
        await watched.thread.close()


class TestNews:
    @pytest.mark.parametrize("is_watching", [True, False])
    async def test_a_change_by_another_connection_is_told(
        self, watched: Watched, path: Path, is_watching: bool
    ) -> None:
        watched.thread.watch(is_watching)
        other = Opened(path)
        await asyncio.wait_for(watched.news.wait(), BOUND)
        watched.news.clear()
        other.put(b"a")
        await asyncio.wait_for(watched.news.wait(), BOUND)
        other.close()

    async def test_its_own_changes_are_not(self, watched: Watched) -> None:
        watched.thread.watch(True)
        for _ in range(20):
            await watched.thread.call(lambda: watched.note("a"))
        assert not watched.news.is_set()


def test_the_thread_ends_with_its_loop(path: Path) -> None:
    async def leave() -> SqliteThread:
        watched = Watched(path)
        await watched.start()
        return watched.thread

    thread = asyncio.run(leave())
    thread.abandon()
    thread._thread.join(BOUND)
    assert not thread._thread.is_alive()
