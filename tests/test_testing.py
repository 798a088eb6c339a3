"""The virtual-time loop that is offered to users for their tests."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import penstock.testing
from helpers.tasks import now
from helpers.versions import FROM_3_11
from penstock import BoundedQueue
from penstock.testing import DeadlockError, VirtualTimeLoop

# -- time -----------------------------------------------------------------------------------------


def test_time_begins_at_zero_and_stands_still_while_something_is_ready() -> None:
    async def main() -> list[float]:
        times = []
        for _ in range(100):
            times.append(now())
            await asyncio.sleep(0)
        return times

    assert set(penstock.testing.run(main())) == {0.0}


def test_sleeping_takes_no_time_and_moves_the_clock_by_exactly_that_much() -> None:
    async def main() -> float:
        await asyncio.sleep(3600 * 24 * 365 * 100)
        return now()

    assert penstock.testing.run(main()) == 3600 * 24 * 365 * 100


def test_timers_fire_in_the_order_of_their_times() -> None:
    fired = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        fired.append((seconds, now()))

    async def main() -> None:
        await asyncio.gather(*(sleeper(seconds) for seconds in (5, 0.25, 3, 100, 0.5)))

    penstock.testing.run(main())
    assert fired == [(s, s) for s in (0.25, 0.5, 3, 5, 100)]


def test_timeouts_come_at_their_exact_time() -> None:
    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), timeout=2.5)
        return now()

    assert penstock.testing.run(main()) == 2.5


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    async def main() -> float:
        asyncio.get_running_loop().call_later(1000, print).cancel()
        await asyncio.sleep(1)
        return now()

    assert penstock.testing.run(main()) == 1


def test_each_loop_has_a_clock_of_its_own() -> None:
    async def main() -> float:
        await asyncio.sleep(5)
        return now()

    assert [penstock.testing.run(main()) for _ in range(2)] == [5, 5]


# -- nothing will ever happen ---------------------------------------------------------------------


async def wait_for_nobody() -> None:
    await asyncio.get_running_loop().create_future()


async def wait_for_each_other() -> None:
    one, other = asyncio.Event(), asyncio.Event()

    async def wait_and_set(wait: asyncio.Event, then: asyncio.Event) -> None:
        await wait.wait()
        then.set()

    await asyncio.gather(wait_and_set(one, other), wait_and_set(other, one))


async def put_and_join_without_workers() -> None:
    async with BoundedQueue[int]() as queue:
        await queue.put(1)
        await queue.join()


@pytest.mark.parametrize(
    "hopeless", [wait_for_nobody, wait_for_each_other, put_and_join_without_workers]
)
def test_a_deadlock_is_an_error_and_not_a_hang(
    hopeless: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    with pytest.raises(DeadlockError, match="every task waits"):
        penstock.testing.run(hopeless())


def test_a_sleep_without_end_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(DeadlockError):
        within(0.3, main)


def test_a_deadlock_is_noticed_after_the_last_timer() -> None:
    async def main() -> None:
        await asyncio.wait([asyncio.create_task(asyncio.sleep(60))])
        await wait_for_nobody()

    with pytest.raises(DeadlockError):
        penstock.testing.run(main())


def test_tasks_that_wait_for_nothing_are_cancelled_at_the_end_and_clean_up() -> None:
    cleaned = []

    async def background() -> None:
        try:
            await wait_for_nobody()
        finally:
            await asyncio.sleep(5)
            cleaned.append(now())

    async def main() -> str:
        asyncio.create_task(background())  # noqa: RUF006 - to be left behind
        await asyncio.sleep(1)
        return "done"

    assert penstock.testing.run(main()) == "done"
    assert cleaned == [6]


def test_the_tasks_of_a_deadlock_are_cancelled_too() -> None:
    cleaned = []

    async def main() -> None:
        try:
            await wait_for_nobody()
        finally:
            cleaned.append(True)

    with pytest.raises(DeadlockError):
        penstock.testing.run(main())
    assert cleaned == [True]


# -- threads --------------------------------------------------------------------------------------


def test_the_clock_stands_still_while_a_function_runs_in_a_thread() -> None:
    timers_fired = threading.Event()

    async def main() -> tuple[float, bool]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.02, timers_fired.set)
        with ThreadPoolExecutor(1) as thread:
            # The thread takes longer than the timer would in real time.
            overtaken = await loop.run_in_executor(thread, timers_fired.wait, 0.1)
        at = now()
        await asyncio.sleep(1)
        assert timers_fired.is_set()
        return at, overtaken

    assert penstock.testing.run(main()) == (0.0, False)


def test_plain_worker_functions_hold_the_clock_too() -> None:
    async def main() -> float:
        async with BoundedQueue[int]() as queue:
            await queue.start_workers(lambda item: time.sleep(0.02), 2)
            asyncio.get_running_loop().call_later(0.001, lambda: None)
            for item in range(4):
                await queue.put(item)
            await queue.join()
            return now()

    assert penstock.testing.run(main()) == 0.0


def test_time_goes_on_after_the_thread() -> None:
    async def main() -> float:
        with ThreadPoolExecutor(1) as thread:
            for _ in range(3):
                await asyncio.get_running_loop().run_in_executor(thread, int)
                await asyncio.sleep(10)
        return now()

    assert penstock.testing.run(main()) == 30


def test_a_failure_in_a_thread_releases_the_clock() -> None:
    async def main() -> float:
        with ThreadPoolExecutor(1) as thread, pytest.raises(ValueError, match="invalid literal"):
            await asyncio.get_running_loop().run_in_executor(thread, int, "no number")
        await asyncio.sleep(10)
        return now()

    assert penstock.testing.run(main()) == 10


def test_the_default_executor_is_waited_for_at_the_end() -> None:
    release = threading.Event()
    timer = threading.Timer(0.1, release.set)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, release.wait, 10).cancel()
        await asyncio.sleep(0)
        timer.start()
        return "done"

    try:
        assert penstock.testing.run(main()) == "done"
    finally:
        release.set()
        timer.join()


@FROM_3_11
def test_the_default_executor_is_waited_for_at_the_end_of_a_runner() -> None:
    release = threading.Event()
    timer = threading.Timer(0.1, release.set)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, release.wait, 10).cancel()
        await asyncio.sleep(0)
        timer.start()
        return "done"

    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            assert runner.run(main()) == "done"
    finally:
        release.set()
        timer.join()


# -- sockets --------------------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


def within(seconds: float, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``main`` in virtual time, but no longer than that in real time."""

    async def guarded() -> Any:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main())
        guard = threading.Timer(seconds, loop.call_soon_threadsafe, [task.cancel])
        guard.start()
        try:
            return await task
        finally:
            guard.cancel()
            guard.join()

    return penstock.testing.run(guarded())


def test_sockets_work() -> None:
    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    assert within(60, main) == b"hello\n"


def test_timers_do_not_overtake_sockets() -> None:
    """An answer that takes a while in real time comes before a timeout that is longer."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        answer = threading.Timer(0.05, theirs.sendall, [b"hello"])
        answer.start()
        try:
            return await asyncio.wait_for(loop.sock_recv(ours, 100), timeout=60)
        finally:
            answer.join()
            ours.close()
            theirs.close()

    assert within(60, main) == b"hello"


def test_timers_fire_while_a_socket_is_open() -> None:
    async def main() -> float:
        async with await asyncio.start_server(echo, "127.0.0.1", 0):
            await asyncio.sleep(0.02)
            return now()

    assert within(60, main) >= 0.02


# -- ways to use it -------------------------------------------------------------------------------


@FROM_3_11
def test_it_is_a_loop_factory() -> None:
    async def main() -> float:
        await asyncio.sleep(1000)
        return now()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 1000


async def test_the_tests_of_penstock_itself_run_in_it() -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


def test_run_returns_the_result_and_closes_its_loop() -> None:
    loops = []

    async def main() -> str:
        loops.append(asyncio.get_running_loop())
        return "result"

    assert penstock.testing.run(main()) == "result"
    assert loops[0].is_closed()


def test_run_raises_what_main_raises() -> None:
    async def main() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        penstock.testing.run(main())


def test_run_closes_async_generators() -> None:
    closed = []

    async def numbers() -> Any:
        try:
            yield 1
            await wait_for_nobody()
        finally:
            closed.append(True)

    generator = numbers()

    async def main() -> None:
        await anext(generator)

    penstock.testing.run(main())
    assert closed == [True]
