"""stop_on_signals: the first signal drains, the second cancels, and then all is as it was."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import penstock.testing
from helpers.tasks import until
from helpers.workers import Worker
from penstock import QueueStatus, WorkQueue
from sync.helpers import run_program as run_source

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(sys.platform == "win32", reason="os.kill() ends the process there"),
]

STOPPED = QueueStatus.STOPPED
SOON = 60  # seconds after which a test has failed; none takes that long


def handlers() -> dict[int, Any]:
    """Who handles what. (To be asked in the test itself: asyncio has a handler while it runs.)"""
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    return {number: signal.getsignal(number) for number in watched}


@pytest.fixture(autouse=True)
def put_handlers_back() -> Iterator[None]:
    """A signal that nobody takes must not end the tests, nor one test spoil the next."""
    before = handlers()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_here(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
async def worker() -> Worker:
    return Worker(held=True)


@pytest.fixture
async def queue(worker: Worker) -> AsyncIterator[WorkQueue[int]]:
    """A queue with three items, the first of them in hand."""
    queue: WorkQueue[int] = WorkQueue()
    await queue.process(worker)
    for item in range(3):
        await queue.put(item)
    await until(lambda: worker.began)
    yield queue
    await queue.stop(timeout=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_stops_and_drains(
    queue: WorkQueue[int], worker: Worker, number: int
) -> None:
    before = handlers()
    queue.stop_on_signals()
    raise_here(number)
    await until(lambda: queue.status is QueueStatus.STOPPING)
    worker.may_go_on.set()
    await queue.join()
    await until(lambda: queue.status is STOPPED)
    assert worker.done == [0, 1, 2]
    assert signal.getsignal(number) is before[number]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_cancels(
    queue: WorkQueue[int], worker: Worker, second: int
) -> None:
    before = handlers()
    queue.stop_on_signals()
    raise_here(signal.SIGTERM)
    await until(lambda: queue.status is QueueStatus.STOPPING)
    raise_here(second)
    await until(lambda: queue.status is STOPPED)
    assert worker.done == []
    assert queue.unprocessed == [0, 1, 2]
    assert signal.getsignal(second) is before[second]


async def test_further_signals_change_nothing(queue: WorkQueue[int], worker: Worker) -> None:
    queue.stop_on_signals(signal.SIGUSR1)
    raise_here(signal.SIGUSR1)
    await until(lambda: queue.status is QueueStatus.STOPPING)
    for _ in range(3):
        raise_here(signal.SIGUSR1)
    await until(lambda: queue.status is STOPPED)
    assert queue.unprocessed == [0, 1, 2]


async def test_draining_after_a_signal_has_the_given_timeout(queue: WorkQueue[int]) -> None:
    queue.stop_on_signals(signal.SIGUSR1, timeout=0.01)
    raise_here(signal.SIGUSR1)
    await until(lambda: queue.status is STOPPED)
    assert queue.unprocessed == [0, 1, 2]


async def test_only_the_signals_given_are_taken() -> None:
    before = handlers()
    async with WorkQueue[int]() as queue:
        queue.stop_on_signals(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is not before[signal.SIGUSR1]
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]


async def test_a_stop_without_a_signal_puts_the_handlers_back() -> None:
    before = handlers()
    async with WorkQueue[int]() as queue:
        queue.stop_on_signals()
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert handlers() == before


async def test_a_handler_of_ones_own_comes_back_too() -> None:
    heard = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    async with WorkQueue[int]() as queue:
        queue.stop_on_signals(signal.SIGUSR1)
    raise_here(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]


async def test_the_handlers_come_back_at_the_end_of_a_batch() -> None:
    before = handlers()

    async def worker(item: int) -> None:
        pass

    queue: WorkQueue[int] = WorkQueue()
    queue.stop_on_signals(signal.SIGUSR1)
    await queue.batch_process(range(3), worker)
    assert queue.status is STOPPED
    assert signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1]


async def test_asking_twice_is_asking_once(queue: WorkQueue[int]) -> None:
    before = handlers()
    queue.stop_on_signals(signal.SIGUSR1, signal.SIGTERM)
    queue.stop_on_signals(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    await queue.stop(timeout=0)
    assert signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1]


async def test_a_queue_not_yet_started_is_stopped_by_a_signal_too() -> None:
    before = handlers()
    queue: WorkQueue[int] = WorkQueue()
    queue.stop_on_signals(signal.SIGUSR1)
    raise_here(signal.SIGUSR1)
    await until(lambda: queue.status is STOPPED)
    assert signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1]


async def test_a_put_that_waits_is_told(queue: WorkQueue[int]) -> None:
    small: WorkQueue[int] = WorkQueue(1)
    await small.start()
    await small.put(1)
    small.stop_on_signals(signal.SIGUSR1)
    waiting = asyncio.create_task(small.put(2, timeout=SOON))
    await asyncio.sleep(0)
    raise_here(signal.SIGUSR1)
    with pytest.raises(penstock.QueueStateError, match="Cannot put items when queue is"):
        await waiting


def test_a_signal_after_the_loop_is_gone_goes_where_it_went_before() -> None:
    heard = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    queue: WorkQueue[int] = WorkQueue()

    async def leave() -> None:
        queue.stop_on_signals(signal.SIGUSR1)

    penstock.testing.run(leave())
    raise_here(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]
    raise_here(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1] * 2


# -- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "SIGTERM",
        9999,
        0,
        -1,
        1.5,
        None,
        15.0,
        [],
    ],
    ids=repr,
)
async def test_what_is_no_signal_is_refused(bad: Any) -> None:
    before = handlers()
    async with WorkQueue[int]() as queue:
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            queue.stop_on_signals(signal.SIGUSR1, bad)
        assert handlers() == before


async def test_a_bool_is_no_signal() -> None:
    async with WorkQueue[int]() as queue:
        with pytest.raises(ValueError, match="True"):
            queue.stop_on_signals(True)


async def test_a_signal_that_cannot_be_caught_is_refused_and_nothing_is_left() -> None:
    before = handlers()
    queue: WorkQueue[int] = WorkQueue()
    with pytest.raises(ValueError, match="SIGKILL"):
        queue.stop_on_signals(signal.SIGUSR1, signal.SIGKILL)
    assert signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1]


async def test_a_refused_call_leaves_the_handlers_of_an_earlier_one() -> None:
    before = handlers()
    async with WorkQueue[int]() as queue:
        queue.stop_on_signals(signal.SIGUSR1)
        with pytest.raises(ValueError, match="9999"):
            queue.stop_on_signals(9999)
        assert signal.getsignal(signal.SIGUSR1) is not before[signal.SIGUSR1]


@pytest.mark.parametrize("bad", [-1, float("nan"), "5", True])
async def test_what_is_no_timeout_is_refused(bad: Any) -> None:
    before = handlers()
    async with WorkQueue[int]() as queue:
        with pytest.raises(ValueError, match="timeout"):
            queue.stop_on_signals(timeout=bad)
        assert handlers() == before


def test_without_a_running_loop_there_is_nothing_to_stop_in() -> None:
    before = handlers()
    with pytest.raises(RuntimeError, match="no running event loop"):
        WorkQueue[int]().stop_on_signals()
    assert handlers() == before


async def test_outside_the_main_thread_python_has_no_signals() -> None:
    async def attempt() -> None:
        WorkQueue[int]().stop_on_signals()

    with (
        ThreadPoolExecutor(1) as thread,
        pytest.raises(ValueError, match="main thread"),
    ):
        await asyncio.get_running_loop().run_in_executor(
            thread, lambda: penstock.testing.run(attempt())
        )


# -- a whole program ------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, sys
    import penstock

    async def main():
        async def worker(item):
            print("begin", item, flush=True)
            while queue.status == "processing":
                await asyncio.sleep(0.01)
            await asyncio.sleep(float(sys.argv[1]))
            print("end", item, flush=True)

        async with penstock.WorkQueue() as queue:
            queue.stop_on_signals()
            await queue.process(worker)
            for item in range(2):
                await queue.put(item)
            try:
                await queue.join()
            except penstock.QueueStateError as error:
                print(error, flush=True)
        print("left", queue.unprocessed, flush=True)

    asyncio.run(main())
"""


def run_program(seconds: float, *signals: int) -> tuple[list[str], int]:
    """Run it, send each signal after the line that shows that it is ready for it."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        lines = [program.stdout.readline().strip()]
        for number in signals:
            program.send_signal(number)
        lines += program.stdout.read().splitlines()
        return lines, program.wait(SOON)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_told_to_end_finishes_its_items_and_ends_well(number: int) -> None:
    lines, code = run_program(0, number)
    assert lines == ["begin 0", "end 0", "begin 1", "end 1", "left []"]
    assert code == 0


def test_a_program_that_is_told_twice_ends_at_once_and_knows_what_is_left() -> None:
    lines, code = run_program(SOON * 10, signal.SIGTERM, signal.SIGINT)
    assert lines == [
        "begin 0",
        "Cannot join: the queue stopped with 2 items unprocessed",
        "left [0, 1]",
    ]
    assert code == 0


# -- two of it: queues, signals, faces, processes -------------------------------------------------


@pytest.mark.parametrize("stops_first", [0, 1])
async def test_two_queues_hear_of_one_signal_and_the_handlers_come_back_with_the_last(
    stops_first: int,
) -> None:
    before = handlers()
    workers = [Worker(held=True), Worker(held=True)]
    queues = [WorkQueue[int](), WorkQueue[int]()]
    for queue, worker in zip(queues, workers, strict=True):
        await queue.process(worker)
        await queue.put(1)
        queue.stop_on_signals()
    raise_here(signal.SIGTERM)
    await until(lambda: queues[0].status is QueueStatus.STOPPING)
    other = queues.pop(stops_first)
    await other.stop(timeout=0)
    assert signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
    for worker in workers:
        worker.may_go_on.set()
    await until(lambda: queues[0].status is STOPPED)
    await until(lambda: handlers() == before)


async def test_queues_are_drained_in_the_order_of_asking() -> None:
    """The workers of the first put into the second."""
    done = []

    async def pass_on(item: int) -> None:
        await asyncio.sleep(0.001)
        assert await second.put(item, timeout=math.inf)

    async def finish(item: int) -> None:
        done.append(item)

    first, second = WorkQueue[int](), WorkQueue[int](1)
    await first.process(pass_on)
    await second.process(finish)
    for item in range(20):
        await first.put(item)
    first.stop_on_signals(signal.SIGUSR1)
    second.stop_on_signals(signal.SIGUSR1)
    raise_here(signal.SIGUSR1)
    await until(lambda: second.status is STOPPED)
    assert first.status is STOPPED
    assert done == list(range(20))


async def test_the_second_signal_cancels_all_of_them_at_once() -> None:
    queues = [WorkQueue[int]() for _ in range(3)]
    for queue in queues:
        await queue.process(Worker(held=True))
        await queue.put(1)
        queue.stop_on_signals(signal.SIGUSR1)
    await until(lambda: all(queue.statistics().inflight for queue in queues))
    raise_here(signal.SIGUSR1)
    await until(lambda: queues[0].status is QueueStatus.STOPPING)
    assert queues[1].status is queues[2].status is QueueStatus.PROCESSING
    raise_here(signal.SIGUSR1)
    await until(lambda: all(queue.status is STOPPED for queue in queues))
    assert [queue.unprocessed for queue in queues] == [[1]] * 3


async def test_a_handler_that_somebody_else_installs_meanwhile_stays() -> None:
    def theirs(number: int, frame: Any) -> None:
        heard.append(number)

    heard: list[int] = []
    before = handlers()[signal.SIGUSR1]
    async with WorkQueue[int]() as queue:
        queue.stop_on_signals(signal.SIGUSR1)
        ours = signal.signal(signal.SIGUSR1, theirs)
    assert signal.getsignal(signal.SIGUSR1) is theirs
    signal.signal(signal.SIGUSR1, ours)  # as if they put back what they found
    raise_here(signal.SIGUSR1)  # nobody is left: as it was before all that
    assert signal.getsignal(signal.SIGUSR1) is before
    assert heard == []


async def test_queues_may_ask_for_different_signals() -> None:
    before = handlers()
    async with WorkQueue[int]() as one, WorkQueue[int]() as other:
        one.stop_on_signals(signal.SIGUSR1, signal.SIGTERM)
        other.stop_on_signals(signal.SIGTERM)
        raise_here(signal.SIGUSR1)
        await until(lambda: one.status is STOPPED)
        await until(lambda: signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1])
        assert other.status is QueueStatus.PROCESSING
        raise_here(signal.SIGTERM)
        await until(lambda: other.status is STOPPED)
    assert handlers() == before


def test_queues_of_both_faces_in_one_process() -> None:
    outcome = run_source("""
        import asyncio, os, signal, threading
        import penstock, penstock.sync

        done = []
        before = signal.getsignal(signal.SIGTERM)

        async def work(item):
            await asyncio.sleep(0.01)
            done.append(item)

        async def main():
            async with penstock.WorkQueue() as queue:
                await queue.process(work)
                for number in range(5):
                    await queue.put(f"async {number}")
                queue.stop_on_signals()
                os.kill(os.getpid(), signal.SIGTERM)
                await queue.join()

        with penstock.sync.WorkQueue() as queue:
            queue.process(lambda item: done.append(item))
            for number in range(5):
                queue.put(f"sync {number}")
            queue.stop_on_signals()
            asyncio.run(main())
            while queue.status != "stopped":
                threading.Event().wait(0.01)
        assert sorted(done) == sorted(
            [f"async {n}" for n in range(5)] + [f"sync {n}" for n in range(5)]
        )
        assert signal.getsignal(signal.SIGTERM) == before
        print("done")
    """)
    assert outcome.stdout == "done\n", outcome.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_dies_of_the_signal_and_its_parent_does_not_hear_of_it() -> None:
    outcome = run_source("""
        import asyncio, os, signal, warnings
        import penstock

        warnings.simplefilter("ignore", DeprecationWarning)

        async def main():
            async with penstock.WorkQueue() as queue:
                queue.stop_on_signals()
                pid = os.fork()
                if not pid:
                    os.kill(os.getpid(), signal.SIGTERM)
                    signal.pause()
                _, status = os.waitpid(pid, 0)
                assert os.WTERMSIG(status) == signal.SIGTERM
                await asyncio.sleep(0.1)
                print(queue.status.value)

        asyncio.run(main())
    """)
    assert outcome.stdout == "processing\n", outcome.stderr
