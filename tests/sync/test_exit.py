"""The end of the interpreter: what was accepted is processed."""

from __future__ import annotations

import pytest

from sync.helpers import run_program

WORKERS = {
    "plain": 'def work(item): time.sleep(0.002); print(f"{item} ", end="", flush=True)',
    "async": "async def work(item): await asyncio.sleep(0.002); "
    """print(f"{item} ", end="", flush=True)""",
}


@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize(
    "ending",
    ["", "sys.exit(0)", "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"],
)
def test_fifty_accepted_items_are_processed_before_it_ends(kind: str, ending: str) -> None:
    outcome = run_program(f"""
import asyncio, sys, threading, time, penstock.sync
{WORKERS[kind]}
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
