"""Ctrl-C, in programs of their own."""

from __future__ import annotations

import os

import pytest

from sync.helpers import run_program

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")

PRELUDE = """
import math, os, signal, threading, time
import penstock.sync

began = threading.Event()
may_go_on = threading.Event()
done = []

def work(item):
    began.set()
    assert may_go_on.wait(20)
    done.append(item)
    return item

def interrupt_when(condition):
    def run():
        while not condition():
            time.sleep(0.001)
        time.sleep(0.05)  # until the main thread waits, or it is interrupted a little earlier
        global sent_at
        sent_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=run).start()

def is_interrupted(call, condition=began.is_set):
    interrupt_when(condition)
    try:
        call()
    except KeyboardInterrupt:
        assert time.monotonic() - sent_at < 1
    else:
        raise AssertionError("no KeyboardInterrupt")

queue = penstock.sync.WorkQueue(1)
queue.process(work, 1)
first = queue.submit("first")
began.wait(20)
second = queue.submit("second")
"""


@pytest.mark.parametrize(
    "call",
    [
        "lambda: queue.put('ghost', timeout=math.inf)",
        "lambda: queue.put('ghost', timeout=15)",
        "lambda: queue.submit('ghost', timeout=math.inf)",
        "queue.join",
        "lambda: queue.join(timeout=15)",
        "first.result",
        "lambda: second.result(timeout=15)",
    ],
)
def test_it_gets_out_at_once_and_the_queue_goes_on(call: str) -> None:
    outcome = run_program(f"""{PRELUDE}
is_interrupted({call})
assert queue.statistics().waiting_putters == 0
may_go_on.set()
assert queue.put("third", timeout=10) is True
assert queue.join(10) is True
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
is_interrupted(lambda: queue.get(timeout=15))
queue.put("a")
assert queue.get(timeout=10) == "a"
queue.task_done()
assert queue.stop() is True
""")
    assert outcome.returncode == 0, outcome.stderr


def test_in_a_stop_that_drains_it_cancels_the_workers() -> None:
    outcome = run_program("""
import asyncio, os, signal, threading, time, penstock.sync

async def work(item):
    await asyncio.sleep(1000)

queue = penstock.sync.WorkQueue()
queue.process(work)
queue.put("a")
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    queue.stop()
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
assert queue.stop() is False
assert time.monotonic() - began < 5
assert queue.unprocessed == ["a"]
""")
    assert outcome.returncode == 0, outcome.stderr


def test_leaving_by_it_does_not_drain() -> None:
    outcome = run_program("""
import asyncio, os, signal, threading, time, penstock.sync

async def work(item):
    await asyncio.sleep(1000)

threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with penstock.sync.WorkQueue() as queue:
        queue.batch_process(["a", "b"], work)
except KeyboardInterrupt:
    assert queue.unprocessed == ["a", "b"]
else:
    raise AssertionError
""")
    assert outcome.returncode == 0, outcome.stderr


def test_putting_under_a_rain_of_signals_loses_and_doubles_nothing() -> None:
    outcome = run_program("""
import collections, math, os, signal, threading, time, penstock.sync

ran = []
queue = penstock.sync.WorkQueue(2)
queue.process(lambda item: (time.sleep(0.0005), ran.append(item)), 2)
halt = threading.Event()

def rain():
    while not halt.is_set():
        time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGINT)

accepted, interrupted = [], 0
drops = threading.Thread(target=rain)
drops.start()
number = 0
while number < 600:
    try:
        number += 1
        item = number
        if queue.put(item, timeout=math.inf):
            accepted.append(item)
    except KeyboardInterrupt:
        interrupted += 1
while True:
    try:
        halt.set()
        drops.join()
        time.sleep(0.02)
        break
    except KeyboardInterrupt:
        pass
assert queue.join(20) is True
assert interrupted > 5, interrupted
counts = collections.Counter(ran)
assert max(counts.values()) == 1
assert not set(accepted) - set(ran)
assert len(ran) == queue.metrics["enqueued"] == queue.metrics["processed"]
assert queue.stop() is True
""")
    assert outcome.returncode == 0, outcome.stderr
