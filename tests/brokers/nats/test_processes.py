"""Several processes and one queue: the bound that they share, and one that is killed."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.helpers import BOUND, SLACK, Program, messages, programs, show
from brokers.servers import NatsServer
from processes import wait_for
from sync.helpers import run_program

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path, nats_server: NatsServer, name: str) -> Iterator[Start]:
    """Start a program with the queue of the test."""
    with programs(tmp_path) as start_one:

        def start(role: str, **settings: Any) -> Program:
            return start_one(role, **{"servers": nats_server.url, "name": name, **settings})

        yield start


def all_ready(*started: Program) -> None:
    for program in started:
        program.until(lambda it: it.notes("ready"))


def test_four_processes_put_against_one_bound(
    start: Start, nats_server: NatsServer, name: str
) -> None:
    producers = [
        start("produce", maxsize=1000, items=list(range(k, 4000, 4)), at_once=32) for k in range(4)
    ]
    assert [producer.wait() for producer in producers] == [0] * 4
    counts = Counter(note["did"] for producer in producers for note in producer.notes())
    assert counts == {"ready": 4, "accepted": 1000, "refused": 3000}
    assert messages(nats_server, name) == 1000
    worker = start("work", maxsize=1000, workers=50)
    wait_for("the queue to be empty", lambda: messages(nats_server, name) == 0, every=0.05)
    worker.let_end()
    assert worker.wait() == 0
    accepted = sorted(item for producer in producers for item in producer.items("accepted"))
    assert sorted(worker.items("done")) == accepted  # each once, and none that was refused


def test_the_items_of_a_killed_worker_are_processed_by_another(start: Start) -> None:
    ack_wait = 2.0
    victim = start("work", ack_wait=ack_wait, workers=3, takes=60)
    all_ready(victim)
    assert start("produce", ack_wait=ack_wait, items=[1, 2, 3]).wait() == 0
    victim.until(lambda it: len(it.items("began")) == 3)
    heir = start("work", ack_wait=ack_wait, workers=3)
    all_ready(heir)
    victim.kill()
    killed = time.monotonic()
    heir.until(lambda it: len(it.items("done")) == 3)
    heir.let_end()
    assert heir.wait() == 0
    assert sorted(heir.items("done")) == [1, 2, 3]
    took = max(note["at"] for note in heir.notes("done")) - killed
    show(f"figures: all done {took:.2f} s after the kill, ack_wait is {ack_wait} s")
    assert took < ack_wait + SLACK


def test_poison_is_tried_by_all_and_buried_once(
    start: Start, nats_server: NatsServer, name: str
) -> None:
    settings = {"attempts": 5, "backoff": 0.05, "maxsize": 3}
    workers = [start("work", poison=["poison"], **settings) for _ in range(2)]
    all_ready(*workers)
    producer = start("produce", items=["a", "poison", "b", "c", "d"], timeout=10, **settings)
    assert producer.wait() == 0
    wait_for("the queue to be empty", lambda: messages(nats_server, name) == 0, every=0.02)
    for worker in workers:
        worker.let_end()
        assert worker.wait() == 0
    assert sum(len(worker.items("failed")) for worker in workers) == 5
    assert [item for worker in workers for item in worker.items("gave up")] == ["poison"]
    assert sorted(item for worker in workers for item in worker.items("done")) == list("abcd")
    assert messages(nats_server, f"{name}-dead") == 1


def test_what_kills_its_workers_becomes_a_dead_letter(
    start: Start, nats_server: NatsServer, name: str
) -> None:
    settings = {"ack_wait": 1.0, "max_deliveries": 2}
    assert start("produce", items=["bomb"], **settings).wait() == 0
    for _ in range(2):
        victim = start("work", takes=60, **settings)
        victim.until(lambda it: it.items("began"))
        victim.kill()
    last = start("work", **settings)
    wait_for("the burial", lambda: messages(nats_server, f"{name}-dead") == 1, BOUND, every=0.02)
    wait_for("its place to be free", lambda: messages(nats_server, name) == 0, BOUND, every=0.02)
    last.let_end()
    assert last.wait() == 0
    assert last.items("began") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_hand_finish(
    start: Start, nats_server: NatsServer, name: str, tmp_path: Path, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    worker = start("work", gate=str(gate), workers=2, on_signals=True)
    assert start("produce", items=[1, 2, 3, 4, 5]).wait() == 0
    worker.until(lambda it: len(it.items("began")) == 2)
    worker.process.send_signal(number)
    worker.until(lambda it: "is stopping" in it.errors)
    gate.touch()
    assert worker.wait() == 0
    assert sorted(worker.items("began")) == sorted(worker.items("done")) == [1, 2]
    assert messages(nats_server, name) == 3


def test_processes_that_were_forked_do_not_pass_for_each_other(
    nats_server: NatsServer, name: str
) -> None:
    outcome = run_program(
        f'''
        import asyncio, os
        from penstock.brokers.nats import NatsQueue

        queue = NatsQueue("{nats_server.url}", "{name}")

        async def put(item):
            async with queue:
                assert await queue.put(item) is True

        for item in range(3):
            child = os.fork()
            if not child:
                asyncio.run(put(item))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        '''
    )
    assert outcome.returncode == 0, outcome.stderr
    assert messages(nats_server, name) == 3


def test_a_signal_with_a_timeout_hands_back_what_is_in_hand(start: Start) -> None:
    victim = start("work", takes=60, workers=2, on_signals=True, stop_timeout=0.2)
    assert start("produce", items=[1, 2]).wait() == 0
    victim.until(lambda it: len(it.items("began")) == 2)
    heir = start("work", workers=2)
    all_ready(heir)
    victim.process.send_signal(signal.SIGTERM)
    assert victim.wait() == 0
    # At once, and not after ack_wait, which is 30 s.
    heir.until(lambda it: len(it.items("done")) == 2, 5)
    heir.let_end()
    assert heir.wait() == 0
    given_up = max(note["at"] for note in victim.notes("cancelled"))
    took = max(note["at"] for note in heir.notes("done")) - given_up
    show(f"figures: all done {took:.3f} s after they were handed back")
    assert took < SLACK
