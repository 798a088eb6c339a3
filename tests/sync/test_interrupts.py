"""Ctrl-C, and puts in signal handlers and finalisers, in programs of their own."""

from __future__ import annotations

import os

import pytest

from sync.helpers import run_program

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")

INTERRUPTING = """
import asyncio, collections, math, os, signal, threading, time
import penstock.sync

def interrupt_when(condition):
    def run():
        while not condition():
            time.sleep(0.001)
        time.sleep(0.05)  # until the main thread waits, or it is interrupted a little earlier
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run).start()
"""

PRELUDE = f"""{INTERRUPTING}
began = threading.Event()
may_go_on = threading.Event()
done = []

def work(item):
    began.set()
    assert may_go_on.wait(60)
    done.append(item)
    return item

def is_interrupted(call):
    # Nothing else would end the call before the test gives up.
    try:
        interrupt_when(began.is_set)
        call()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("no KeyboardInterrupt")

queue = penstock.sync.WorkQueue(1)
queue.process(work, 1)
first = queue.submit("first")
began.wait(60)
second = queue.submit("second")
"""


@pytest.mark.parametrize(
    "call",
    [
        "lambda: queue.put('ghost', timeout=math.inf)",
        "lambda: queue.put('ghost', timeout=600)",
        "lambda: queue.submit('ghost', timeout=math.inf)",
        "queue.join",
        "lambda: queue.join(timeout=600)",
        "first.result",
        "lambda: second.result(timeout=600)",
    ],
)
def test_it_gets_out_at_once_and_the_queue_goes_on(call: str) -> None:
    outcome = run_program(f"""{PRELUDE}
is_interrupted({call})
assert queue.statistics().waiting_putters == 0
may_go_on.set()
assert queue.put("third", timeout=60) is True
assert queue.join(60) is True
assert done == ["first", "second", "third"], done
assert queue.metrics["enqueued"] == queue.metrics["processed"] == 3
assert queue.stop() is True
""")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""


def test_in_get() -> None:
    outcome = run_program(f"""{PRELUDE}
may_go_on.set()
queue.join()
queue.queue.stop_workers()
is_interrupted(lambda: queue.get(timeout=600))
queue.put("a")
assert queue.get(timeout=60) == "a"
queue.task_done()
assert queue.stop() is True
""")
    assert outcome.returncode == 0, outcome.stderr


def test_in_a_stop_that_drains_it_cancels_the_workers() -> None:
    outcome = run_program(f"""{INTERRUPTING}
async def work(item):
    await asyncio.sleep(1000)

queue = penstock.sync.WorkQueue()
queue.process(work)
queue.put("a")
try:
    interrupt_when(lambda: queue.status == "stopping")
    queue.stop()
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
assert queue.stop() is False
assert queue.unprocessed == ["a"]
""")
    assert outcome.returncode == 0, outcome.stderr


def test_leaving_by_it_does_not_drain() -> None:
    outcome = run_program(f"""{INTERRUPTING}
async def work(item):
    await asyncio.sleep(1000)

try:
    with penstock.sync.WorkQueue() as queue:
        interrupt_when(lambda: queue.metrics["enqueued"] == 2)
        queue.batch_process(["a", "b"], work)
except KeyboardInterrupt:
    assert queue.unprocessed == []  # the batch took back what it had not done
    assert queue.metrics["processed"] == 2
else:
    raise AssertionError
""")
    assert outcome.returncode == 0, outcome.stderr


def test_putting_under_a_rain_of_signals_loses_and_doubles_nothing() -> None:
    outcome = run_program(f"""{INTERRUPTING}
ran = []
queue = penstock.sync.WorkQueue(2)
queue.process(lambda item: (time.sleep(0.0005), ran.append(item)), 2)
halt = threading.Event()
is_putting = False

def interrupt(number, frame):
    global is_putting
    if is_putting:  # once in each put, and nowhere else
        is_putting = False
        raise KeyboardInterrupt

def rain():
    while not halt.is_set():
        time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, interrupt)
accepted, interrupted, number = [], 0, 0
drops = threading.Thread(target=rain)
drops.start()
while number < 600 or interrupted < 6:
    number += 1
    try:
        is_putting = True
        if queue.put(number, timeout=math.inf):
            accepted.append(number)
        is_putting = False
    except KeyboardInterrupt:
        interrupted += 1
halt.set()
drops.join()
assert queue.join(60) is True
counts = collections.Counter(ran)
assert max(counts.values()) == 1
assert not set(accepted) - set(ran)
assert len(ran) == queue.metrics["enqueued"] == queue.metrics["processed"]
assert queue.stop() is True
""")
    assert outcome.returncode == 0, outcome.stderr


def test_it_gets_out_of_an_iteration_and_nothing_is_lost() -> None:
    outcome = run_program(f"""{INTERRUPTING}
queue = penstock.sync.WorkQueue(5)
with queue:
    items = queue.items()
    queue.put("a")
    assert next(items) == "a"
    interrupt_when(lambda: queue.queue._buffer._waiters)
    try:
        next(items)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("no KeyboardInterrupt")
    assert queue.metrics["processed"] == 1
    queue.put("b")
    queue.close()
    assert list(items) == ["b"]
""")
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_a_put_in_a_signal_handler_works_or_is_refused_and_never_waits() -> None:
    """However often: the handler interrupts puts of its own thread in the middle of a change."""
    outcome = run_program(
        """
        import math, signal, time
        import penstock, penstock.sync

        accepted, refused, done = [], [], []

        def handle(signum, frame):
            try:
                queue.put_nowait("from the handler")
            except (penstock.QueueStateError, penstock.QueueFullError) as error:
                refused.append(error)
            else:
                accepted.append(1)

        queue = penstock.sync.WorkQueue(10)
        queue.process(done.append, 1)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        puts = 0
        give_up_at = time.monotonic() + 60
        while not any("finaliser" in str(error) for error in refused):
            assert queue.put("from the loop", timeout=math.inf)
            puts += 1
            assert time.monotonic() < give_up_at, "no handler has interrupted the queue itself"
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert queue.join(60)
        assert len(done) == puts + len(accepted), (len(done), puts, len(accepted))
        assert queue.metrics["enqueued"] == queue.metrics["processed"] == len(done)
        assert queue.statistics().peak_size <= 10
        queue.stop()
        print("done")
        """
    )
    assert outcome.stdout == "done\n", outcome.stderr


def test_a_put_in_a_finaliser_works_or_is_refused_and_never_waits() -> None:
    outcome = run_program(
        """
        import gc, math
        import penstock, penstock.sync

        accepted, refused, done = [], [], []

        class Litter:
            def __init__(self):
                self.me = self

            def __del__(self):
                try:
                    queue.put_nowait("from a finaliser")
                except (penstock.QueueStateError, penstock.QueueFullError) as error:
                    refused.append(str(error))
                else:
                    accepted.append(1)

        queue = penstock.sync.WorkQueue(10)
        queue.process(done.append, 1)
        gc.set_threshold(1)
        for _ in range(2_000):
            Litter()
            assert queue.put("from the loop", timeout=math.inf)
        gc.set_threshold(700)
        gc.collect()
        assert queue.join(60)
        assert len(accepted) + len(refused) == 2_000
        assert len(done) == 2_000 + len(accepted)
        queue.stop()
        print("done")
        """
    )
    assert outcome.stdout == "done\n", outcome.stderr
