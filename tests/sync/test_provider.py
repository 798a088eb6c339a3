"""The loop thread of a queue: shared, given up, refused."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import threading
import weakref

import pytest

from penstock.sync import LoopThread, WorkQueue
from sync.helpers import BOUND, Held, eventually, queue_threads, run_program


class TestCollection:
    def test_an_unstopped_queue_warns_processes_what_it_has_and_ends_its_thread(self) -> None:
        before = queue_threads()
        held = Held()
        queue: WorkQueue[int] | None = WorkQueue()
        queue.process(held)
        for number in range(3):
            queue.put(number)
        collected = weakref.ref(queue)
        with pytest.warns(ResourceWarning, match="was not stopped"):  # noqa: PT031
            queue = None
            gc.collect()
        assert collected() is None
        held.may_go_on.set()
        eventually(lambda: held.done == [0, 1, 2])
        eventually(lambda: not queue_threads() - before)

    def test_a_stopped_one_says_nothing(self) -> None:
        queue: WorkQueue[int] | None = WorkQueue()
        queue.process(print)
        queue.stop()
        del queue
        gc.collect()

    @pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux to count files")
    @pytest.mark.parametrize(
        "work", ["async def work(item): done.append(item)", "work = done.append"]
    )
    def test_fifty_cycles_leave_no_thread_and_no_file(self, work: str) -> None:
        outcome = run_program(f"""
import os, threading, time, penstock.sync

def open_files():
    return len(os.listdir("/proc/self/fd"))

def wait_until(condition):
    while not condition():
        time.sleep(0.001)

done = []
{work}
queue = penstock.sync.WorkQueue()
for cycle in range(50):
    queue.process(work, 2)
    queue.put(cycle)
    assert queue.stop() is True
    if cycle == 0:
        wait_until(lambda: threading.active_count() == 1)
        before = open_files()
wait_until(lambda: threading.active_count() == 1)
assert open_files() <= before
assert sorted(done) == list(range(50))
""")
        assert outcome.returncode == 0, outcome.stderr


class TestLoopThreads:
    def test_several_queues_share_one(self) -> None:
        threads: set[threading.Thread] = set()

        async def work(item: int) -> None:
            threads.add(threading.current_thread())

        with LoopThread(name="shared") as thread:
            queues = [WorkQueue[int](loop_thread=thread) for _ in range(3)]
            for queue in queues:
                queue.process(work)
                queue.put(1)
            for queue in queues:
                assert queue.stop() is True
            assert threads == {thread.thread}
            assert thread.is_running
        assert not thread.is_running

    def test_uvloop_if_asked_for(self) -> None:
        uvloop = pytest.importorskip("uvloop")

        async def which(item: int) -> str:
            return type(asyncio.get_running_loop()).__module__

        thread = LoopThread(loop_factory=uvloop.new_event_loop)
        with thread, WorkQueue[int](loop_thread=thread) as queue:
            queue.process(which)
            assert queue.submit(1).result(BOUND).startswith("uvloop")


def test_a_gevent_patched_interpreter_is_refused() -> None:
    pytest.importorskip("gevent")
    outcome = run_program("""
import warnings
warnings.simplefilter("ignore")
import gevent.monkey
gevent.monkey.patch_all()
import penstock.sync
try:
    penstock.sync.WorkQueue()
except RuntimeError as error:
    print(error)
""")
    assert "penstock.sync needs real threads, and gevent.monkey has patched" in outcome.stdout


def test_without_its_threads_patched_gevent_is_fine() -> None:
    pytest.importorskip("gevent")
    outcome = run_program("""
import warnings
warnings.simplefilter("ignore")
import gevent.monkey
gevent.monkey.patch_all(thread=False, queue=False)
import penstock.sync
penstock.sync.WorkQueue().batch_process("abc", print)
""")
    assert outcome.stdout.split() == ["a", "b", "c"], outcome.stderr


needs_eventlet = pytest.mark.skipif(
    importlib.util.find_spec("eventlet") is None,
    reason="needs eventlet, which `make test-servers` installs",
)


@pytest.mark.slow
@needs_eventlet
def test_so_is_one_that_eventlet_has_patched() -> None:
    outcome = run_program("""
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import penstock.sync
try:
    penstock.sync.WorkQueue()
except RuntimeError as error:
    print(error)
""")
    assert "penstock.sync needs real threads, and eventlet has patched" in outcome.stdout, outcome


@pytest.mark.slow
@needs_eventlet
def test_without_its_threads_patched_eventlet_is_fine() -> None:
    outcome = run_program("""
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch(thread=False)
import penstock.sync
penstock.sync.WorkQueue().batch_process("abc", print)
""")
    assert outcome.stdout.split() == ["a", "b", "c"], outcome.stderr
