"""Hooks of the process: queues are drained at its end, and a forked child gets clear errors."""

from __future__ import annotations

import os

import pytest

from helpers.versions import ENDS_EARLY
from sync.helpers import run_program

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# -- the end of the interpreter: what was accepted is processed ------------------------------------

WORK = {
    "plain": 'def work(item): time.sleep(0.002); print(f"{item} ", end="", flush=True)',
    "async": "async def work(item): await asyncio.sleep(0.002); "
    """print(f"{item} ", end="", flush=True)""",
}


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize(
    "ending",
    ["", "sys.exit(0)", "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"],
)
def test_fifty_accepted_items_are_processed_before_it_ends(kind: str, ending: str) -> None:
    outcome = run_program(f"""
import asyncio, sys, threading, time, penstock.sync
{WORK[kind]}
queue = penstock.sync.WorkQueue(100, concurrency_limit=3)
queue.process(work)
assert all(queue.put(number) for number in range(50))
{ending}
""")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    assert sorted(map(int, outcome.stdout.split())) == list(range(50))


def test_also_those_of_a_queue_that_a_function_left_behind() -> None:
    outcome = run_program("""
import threading, time, warnings, penstock.sync
warnings.simplefilter("ignore", ResourceWarning)

def main():
    queue = penstock.sync.WorkQueue(100)
    queue.process(lambda item: (time.sleep(0.002), print(f"{item} ", end="", flush=True)))
    for number in range(50):
        queue.put(number)

main()
""")
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(map(int, outcome.stdout.split())) == list(range(50))


def test_what_nobody_processes_is_said() -> None:
    outcome = run_program("""
import penstock.sync
queue = penstock.sync.WorkQueue(100)
queue.start()
queue.put("a")
""")
    assert outcome.returncode == 0
    assert outcome.stderr.strip() == "Queue default stopped with 1 items unprocessed"


@ENDS_EARLY
def test_a_worker_function_may_use_executors_and_other_queues_until_then() -> None:
    outcome = run_program("""
import asyncio, time, penstock.sync

async def work(item):
    await asyncio.sleep(0.01)
    await asyncio.to_thread(print, f"{item} ", end="", flush=True)
    if item == 0:
        other.put_nowait("other")

other = penstock.sync.WorkQueue()
other.process(lambda item: print(f"{item} ", end="", flush=True))
queue = penstock.sync.WorkQueue()
queue.process(work)
for number in range(5):
    queue.put(number)
""")
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(outcome.stdout.split()) == ["0", "1", "2", "3", "4", "other"]


# -- forked children: they get clear errors and disturb nobody -------------------------------------

PRELUDE = """
import gc, math, os, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is the point
import logging
import penstock.sync
from penstock import QueueStateError
logging.getLogger("penstock").setLevel(logging.ERROR)

done = []
async def work(item):
    done.append(item)
    return item

def in_child(func):
    pid = os.fork()
    if not pid:
        try:
            func()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def is_refused(call):
    try:
        call()
    except QueueStateError as error:
        assert "fork" in str(error), error
    else:
        raise AssertionError(f"{call} was not refused")
"""


def check(program: str) -> None:
    import textwrap

    outcome = run_program(PRELUDE + textwrap.dedent(program))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""


@needs_fork
@pytest.mark.parametrize("workers", ["work", "done.append"])
def test_every_call_is_refused_and_the_parent_goes_on(workers: str) -> None:
    check(f"""
        queue = penstock.sync.WorkQueue(10)
        queue.process({workers}, 2)
        assert queue.submit("before").result(60) in ("before", None)
        held = penstock.sync.WorkQueue(10)
        held.start()
        pending = held.submit("pending")

        def child():
            for call in (
                lambda: queue.put("a"), lambda: queue.put_nowait("a"), lambda: queue.submit("a"),
                queue.get, queue.get_nowait, queue.task_done, queue.join, queue.start, queue.stop,
                lambda: queue.process(print), lambda: list(queue.map(print, "a")),
                lambda: queue.batch_process("a", print), pending.result, pending.exception,
                lambda: queue.queue.stop_workers(),
            ):
                is_refused(call)
            assert repr(queue) and queue.size == 0 and queue.statistics() and queue.metrics

        in_child(child)
        assert queue.submit("after").result(60) in ("after", None)
        assert queue.stop() is True and held.stop() is False
        assert done == ["before", "after"]
    """)


@needs_fork
def test_a_child_that_collects_or_leaves_it_disturbs_nothing() -> None:
    check("""
        queue = penstock.sync.WorkQueue(10)
        queue.process(work)
        queue.submit("before").result(60)

        def collect():
            global queue
            queue = None
            gc.collect()

        in_child(collect)
        for _ in range(3):
            queue.submit("after").result(60)

        def leave():
            try:
                with queue:
                    pass
            except QueueStateError:
                pass
            try:
                queue.__exit__(SystemExit, SystemExit(), None)
            finally:
                collect()

        in_child(leave)
        queue.submit("and after").result(60)

        def exit_in_the_middle():
            sys.exit(0)  # runs what is registered for the end of the interpreter

        pid = os.fork()
        if not pid:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        queue.submit("at last").result(60)
        assert queue.stop() is True
    """)


@needs_fork
def test_a_fork_while_other_threads_put_is_no_deadlock_in_the_child() -> None:
    check("""
        queue = penstock.sync.WorkQueue(10)
        queue.process(work, 2)
        halt = threading.Event()

        def produce():
            while not halt.is_set():
                queue.put(1, timeout=math.inf)

        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()

        def child():
            is_refused(lambda: queue.put(1))
            is_refused(queue.stop)
            fresh = penstock.sync.WorkQueue(10)
            fresh.process(work)
            assert fresh.submit("mine").result(60) == "mine"
            assert fresh.stop() is True

        for _ in range(20):
            in_child(child)
        halt.set()
        for thread in threads:
            thread.join(60)
        assert queue.stop() is True
    """)


@needs_fork
def test_one_made_before_and_started_after_the_fork_is_the_childs() -> None:
    check("""
        made = penstock.sync.WorkQueue(10)

        def child():
            is_refused(made.start)
            mine = penstock.sync.WorkQueue(10)
            with mine:
                mine.process(work)
                assert mine.submit("a").result(60) == "a"

        in_child(child)
        with made:
            made.process(work)
            made.put("parent")
        assert done == ["parent"]
    """)


@needs_fork
def test_a_loop_thread_is_the_parents_too() -> None:
    check("""
        thread = penstock.sync.LoopThread()
        thread.start()

        def child():
            is_refused(thread.start)
            is_refused(penstock.sync.WorkQueue(loop_thread=thread).start)
            assert thread.close() is True
            assert not thread.is_running

        in_child(child)
        assert thread.is_running
        with penstock.sync.WorkQueue(loop_thread=thread) as queue:
            queue.process(work)
            assert queue.submit(1).result(60) == 1
        assert thread.close(60) is True
    """)


@needs_fork
def test_a_limiter_is_as_new_in_the_child() -> None:
    """Whoever waits in the parent does not stand in line in the child."""
    check("""
        import asyncio
        limiter = penstock.Limiter([penstock.Limit(1, per=1000), penstock.Limit(9, 1, key=str)])
        limiter.acquire_blocking("a")
        threading.Thread(target=limiter.acquire_blocking, args=("a",), daemon=True).start()
        while not limiter.statistics().waiting:
            time.sleep(0.001)

        async def main():
            waiting = asyncio.create_task(limiter.acquire("a"))
            await asyncio.sleep(0)
            in_child(child)
            assert limiter.statistics().waiting == 2
            waiting.cancel()

        def child():
            assert limiter.statistics().waiting == 0
            assert limiter.try_acquire("a") is not None
            assert limiter.try_acquire("a") is None
            limiter.limits[0].change(max=2)
            limiter.acquire_blocking("a").give_back()
            threading.Thread(target=limiter.acquire_blocking, args=("a",)).start()

        asyncio.run(main())
    """)


@needs_fork
def test_locks_that_a_thread_holds_at_the_fork_are_free_in_the_child() -> None:
    check("""
        import asyncio, signal
        from penstock.limits import Backoff
        limiter = penstock.Limiter([penstock.Limit(10**9, per=1)])
        retry = penstock.RetryPolicy(2, backoff=Backoff(0.001))

        async def use():
            queue = penstock.WorkQueue(limits=limiter, retry=retry)
            async with queue:
                await queue.process(work)
                await queue.put(1)
                await queue.join()

        def hammer():
            while not is_over:
                limiter.try_acquire()
                retry.budget.succeeded()
                penstock.WorkQueue(limits=[penstock.Limit(1, 1)])

        def child():
            signal.alarm(30)  # kills it
            asyncio.run(use())
            limiter.acquire_blocking()

        is_over = False
        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(40):
                in_child(child)
        finally:
            is_over = True
    """)
