"""What the garbage collector closes, in the middle of any line, waits for nothing."""

from __future__ import annotations

import pytest

from sync.helpers import run_program

#: A loop thread that makes a collection of its own, of ``garbage``: what waits for that loop in it
#: would wait for ever.
PRELUDE = """
import contextlib, gc, signal, threading
import penstock, penstock.sync

gc.disable()
queue = penstock.sync.WorkQueue(10)

class Cycle:
    # Garbage from the beginning: only a collection finds it.
    def __init__(self, held):
        self.held, self.me = held, self

def collect_in_loop(queue):
    async def collect(item):
        gc.collect()
    with penstock.sync.WorkQueue(loop_thread=thread) as other:
        other.process(collect, 1)
        other.put(None)
        assert other.join(60)

thread = penstock.sync.LoopThread()
thread.start()
queue = penstock.sync.WorkQueue(10, loop_thread=thread)
ran = []

def work(item):
    ran.append(item)
    return item
"""

HOLDERS = {
    "iterator": "results = queue.map(work, range(1000), num_workers=1)",
    "generator of it": "results = (one for one in queue.map(work, range(1000), num_workers=1))",
    "generator from it": """
def each():
    yield from queue.map(work, range(1000), num_workers=1)
results = each()
""",
    "generator that closes it": """
def each():
    with contextlib.closing(queue.map(work, range(1000), num_workers=1)) as results:
        for result in results:
            yield result
results = each()
""",
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_map_that_is_collected_ends_and_nobody_waits_for_it(kind: str) -> None:
    outcome = run_program(f"""{PRELUDE}
{HOLDERS[kind]}
assert next(results) == 0
Cycle(results)
del results
collect_in_loop(queue)
# It has stopped, since it was started for the map, and is as good as new.
assert list(queue.map(work, [10, 11])) == [10, 11]
assert queue.status == "stopped"
assert len(ran) < 1000
assert queue.statistics().size == 0
thread.close()
print("done")
""")
    assert (outcome.stdout, outcome.stderr) == ("done\n", "")


def test_a_map_that_is_collected_after_its_queue_has_stopped_leaves_nothing() -> None:
    outcome = run_program(f"""{PRELUDE}
queue = penstock.sync.WorkQueue(10)
results = queue.map(work, range(1000), num_workers=1)
assert next(results) == 0
queue.stop(timeout=0, drain=False)
Cycle(results)
del results
collect_in_loop(queue)
with queue:
    assert list(queue.map(work, [10, 11])) == [10, 11]
    queue.process(work, 1)
    assert queue.submit(12).result(60) == 12
assert not queue.unprocessed
thread.close()
print("done")
""")
    assert (outcome.stdout, outcome.stderr) == ("done\n", "")


def test_the_block_of_a_queue_that_is_collected_stops_it_and_nobody_waits() -> None:
    outcome = run_program(f"""{PRELUDE}
@contextlib.contextmanager
def running():
    with queue:
        yield queue

block = running()
block.__enter__().process(work, 1)
assert queue.submit(1).result(60) == 1
Cycle(block)
del block
collect_in_loop(queue)
assert queue.join(60)
collect_in_loop(queue)  # the calls of a loop come one after the other
assert queue.status == "stopped", queue.status
thread.close()
print("done")
""")
    assert (outcome.stdout, outcome.stderr) == ("done\n", "")


def test_a_stop_in_a_finaliser_that_is_collected_stops_it_and_nobody_waits() -> None:
    outcome = run_program(f"""{PRELUDE}
class Owner(Cycle):
    def __del__(self):
        stopped.append(queue.stop())

stopped, heard = [], []
signal.signal(signal.SIGINT, lambda *_: heard.append("as before"))
queue.stop_on_signals(signal.SIGINT)
queue.process(work, 1)
Owner(None)
queue.put(1)
collect_in_loop(queue)
collect_in_loop(queue)
assert stopped == [False], stopped
signal.raise_signal(signal.SIGINT)
assert heard == ["as before"]
assert ran == [1]
assert queue.status == "stopped", queue.status
thread.close()
print("done")
""")
    assert (outcome.stdout, outcome.stderr) == ("done\n", "")


WAITS = {
    "put": "queue.put(2, timeout=60)",
    "get": "queue.get(timeout=60)",
    "join": "queue.join()",
    "start": "other.start()",
    "process": "queue.process(work)",
    "stop_workers": "queue.stop_workers()",
    "batch_process": "other.batch_process([1], work)",
    "map": "next(other.map(work, [1]))",
    "result": "future.result()",
    "close": "queue.close()",
}


@pytest.mark.parametrize("call", WAITS)
def test_other_calls_that_wait_are_refused_there(call: str) -> None:
    outcome = run_program(f"""{PRELUDE}
class Owner(Cycle):
    def __del__(self):
        try:
            {WAITS[call]}
        except penstock.QueueStateError as error:
            refused.append(str(error))

refused = []
other = penstock.sync.WorkQueue(1)
queue = penstock.sync.WorkQueue(1)
began, may_end = threading.Event(), threading.Event()
queue.start()
if {call!r} != "get":
    queue.process(lambda item: (began.set(), may_end.wait(60)), 1)
    future = queue.submit(0)
    assert began.wait(60)
    queue.put(1)
Owner(None)
gc.collect()
may_end.set()
assert len(refused) == 1, refused
assert "in a finaliser" in refused[0]
queue.stop()
print("done")
""")
    assert (outcome.stdout, outcome.stderr) == ("done\n", "")
