"""The event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import Future, wait
from contextvars import ContextVar
from typing import Any

import pytest

from penstock import QueueStateError
from penstock.sync import LoopThread
from sync.conftest import no_thread_is_left  # noqa: F401 - for every test here
from sync.helpers import BOUND, eventually, in_thread

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def whoami() -> threading.Thread:
    return threading.current_thread()


def test_it_starts_and_ends() -> None:
    thread = LoopThread(name="mine")
    assert repr(thread) == "<LoopThread 'mine' not running>"
    with thread:
        assert repr(thread) == "<LoopThread 'mine' running>"
        assert thread.call(whoami) is thread.thread
        assert thread.thread is not None
        assert thread.thread.name == "mine"
        assert thread.thread.daemon
        thread.start()  # again: nothing
    assert not thread.is_running
    assert thread.close() is True
    assert thread.loop is not None
    assert thread.loop.is_closed()
    for call in (thread.start, lambda: thread.call(whoami)):
        with pytest.raises(QueueStateError, match="mine is closed"):
            call()


def test_before_its_start_it_does_nothing() -> None:
    with pytest.raises(QueueStateError, match="is not started"):
        LoopThread().call(whoami)


@pytest.mark.parametrize(
    ("arguments", "error"), [({"loop_factory": 5}, TypeError), ({"name": ""}, ValueError)]
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        LoopThread(**arguments)


def test_a_factory_that_raises_raises_at_the_start() -> None:
    def fail() -> asyncio.AbstractEventLoop:
        raise KeyError("no loop today")

    with pytest.raises(KeyError, match="no loop today"):
        LoopThread(loop_factory=fail).start()


def test_its_context_is_empty_and_a_call_brings_its_own() -> None:
    async def look() -> str:
        return variable.get()

    async def look_from_a_callback() -> str:
        seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        seen.set_result(variable.get())
        return await seen

    token = variable.set("of the caller")
    try:
        with LoopThread() as thread:
            assert thread.call(look) == "of the caller"
            variable.reset(token)
            token = variable.set("later")
            assert thread.call(look_from_a_callback) == "later"
            assert thread.thread is not None
    finally:
        variable.reset(token)


def test_what_a_call_raises_comes_out() -> None:
    async def fail(error: BaseException) -> None:
        raise error

    with LoopThread() as thread:
        for error in (KeyError("why"), TimeoutError("its own"), asyncio.CancelledError()):
            with pytest.raises(type(error)):
                thread.call(fail, error, timeout=BOUND)


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def others() -> int:
        return len(asyncio.all_tasks()) - 1

    with LoopThread() as thread:
        with pytest.raises(TimeoutError):
            thread.call(forever, timeout=0.01)
        eventually(lambda: thread.call(others) == 0)
        assert thread.responds(BOUND)


def test_a_loop_that_is_blocked_does_not_respond() -> None:
    began, may_go_on = threading.Event(), threading.Event()

    async def block() -> None:
        began.set()
        may_go_on.wait(BOUND)

    with LoopThread() as thread:
        future = thread.send(block)
        assert began.wait(BOUND)
        assert thread.responds(0.01) is False
        assert thread.close(timeout=0.01) is False
        may_go_on.set()
        assert future.result(BOUND) is None
        assert thread.close(BOUND) is True
        assert thread.responds(0.01) is True  # that it has ended is another thing


def test_closing_cancels_what_is_left_and_tells_who_waits() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append("cleaned up")
            raise

    async def begin() -> None:
        tasks.append(asyncio.create_task(linger()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    thread = LoopThread()
    thread.start()
    thread.call(begin)
    future = thread.send(linger)
    thread.call(begin)
    assert thread.close(BOUND) is True
    assert ended == ["cleaned up"] * 3
    with pytest.raises(QueueStateError, match="closed"):
        future.result(BOUND)


def test_a_crash_is_told_to_those_who_still_exist() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def hear(self, message: str) -> None:
            self.heard.append(message)

    async def die() -> None:
        raise SystemExit("by force")

    thread = LoopThread(name="mortal")
    thread.start()
    there, gone = Listener(), Listener()
    thread.on_crash(there.hear)
    thread.on_crash(there.hear)
    thread.on_crash(gone.hear)
    del gone
    future = thread.send(die)
    with pytest.raises(QueueStateError, match=r"mortal died: SystemExit\('by force'\)"):
        future.result(BOUND)
    eventually(lambda: there.heard)
    assert len(there.heard) == 1
    with pytest.raises(QueueStateError, match="mortal died"):
        thread.call(whoami)


def test_one_that_nobody_holds_ends() -> None:
    thread: LoopThread | None = LoopThread(name="penstock-forgotten")
    assert thread is not None
    thread.start()
    real = thread.thread
    assert real is not None
    thread = None
    gc.collect()
    real.join(BOUND)
    assert not real.is_alive()


def test_one_that_was_never_started_can_be_closed() -> None:
    thread = LoopThread()
    assert thread.close() is True
    with pytest.raises(QueueStateError, match="is closed"):
        thread.start()


def test_all_who_ask_in_the_same_moment_to_be_told_of_a_crash_are() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_crash(self, message: str) -> None:
            self.heard.append(message)

    class Meanwhile:
        """Known already. While somebody looks at it, another one asks."""

        def __call__(self) -> None:
            if not asked:
                asked.append(in_thread(thread.on_crash, second.on_crash))
                wait(asked, timeout=0.1)  # it may have to wait for its turn

    asked: list[Future[None]] = []
    first, second = Listener(), Listener()
    thread = LoopThread()
    thread.start()
    assert thread._runner is not None
    assert thread.loop is not None
    assert thread.thread is not None
    thread._runner.crash_callbacks.append(Meanwhile())  # type: ignore[arg-type]
    thread.on_crash(first.on_crash)
    asked[0].result(BOUND)
    thread.loop.call_soon_threadsafe(thread.loop.stop)
    thread.thread.join(BOUND)
    assert [len(one.heard) for one in (first, second)] == [1, 1]


@pytest.mark.parametrize(
    ("old", "new", "arguments"),
    [
        ("see", ": use wait", 2),
        ("finishes", ": use run_with_timeout", 2),
        ("withdraw", ": use cancel", 1),
        ("tell_of_death", ": use on_crash", 1),
        ("leave", ": use close_nowait", 0),
        ("give_up", "", 0),
        ("disown", "", 0),
    ],
)
@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_an_earlier_name_warns(old: str, new: str, arguments: int) -> None:
    with pytest.raises(DeprecationWarning, match=rf"^LoopThread\.{old} is deprecated{new}$"):
        getattr(LoopThread(), old)(*[None] * arguments)


def test_the_warning_names_the_callers_line() -> None:
    with pytest.warns(DeprecationWarning, match="use close_nowait") as warnings:
        LoopThread().leave()
    assert [warning.filename for warning in warnings] == [__file__]


@pytest.mark.filterwarnings("ignore:LoopThread:DeprecationWarning")
def test_earlier_names_do_what_they_did() -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def hear(self, message: str) -> None:
            self.heard.append(message)

    async def forever() -> None:
        await asyncio.Event().wait()

    thread, listener = LoopThread(), Listener()
    thread.start()
    thread.tell_of_death(listener.hear)
    future = thread.send(whoami)
    assert thread.see(future, BOUND) is True
    assert thread.finishes(forever, 0.01) is False
    endless = thread.send(forever)
    thread.withdraw(endless)
    assert isinstance(endless.exception(BOUND), asyncio.CancelledError)
    assert thread.loop is not None
    thread.loop.call_soon_threadsafe(thread.loop.stop)
    eventually(lambda: listener.heard)
    for name in ("leave", "give_up"):
        thread = LoopThread()
        thread.start()
        getattr(thread, name)()
        assert thread.close(BOUND) is True
    assert LoopThread().disown() == (None, None)
