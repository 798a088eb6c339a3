"""Several processes and one queue: the bound that they share, and one that is killed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.helpers import BOUND, SLACK, Program, messages, programs
from brokers.servers import NatsServer
from processes import wait_for

pytestmark = pytest.mark.real_time

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
        wait_for("a program to be ready", lambda p=program: p.notes("ready"), BOUND, every=0.02)


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
    wait_for("the victim to have them", lambda: len(victim.items("began")) == 3, every=0.02)
    heir = start("work", ack_wait=ack_wait, workers=3)
    all_ready(heir)
    victim.kill()
    began = heir.notes("ready")[0]["at"]
    wait_for("the heir to do them", lambda: len(heir.items("done")) == 3, BOUND, every=0.02)
    heir.let_end()
    assert heir.wait() == 0
    assert sorted(heir.items("done")) == [1, 2, 3]
    assert max(note["at"] for note in heir.notes("done")) - began < ack_wait + SLACK


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
        wait_for("it to begin", lambda v=victim: v.items("began"), BOUND, every=0.02)
        victim.kill()
    last = start("work", **settings)
    wait_for("the burial", lambda: messages(nats_server, f"{name}-dead") == 1, BOUND, every=0.02)
    wait_for("its place to be free", lambda: messages(nats_server, name) == 0, BOUND, every=0.02)
    last.let_end()
    assert last.wait() == 0
    assert last.items("began") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_hand_finish(
    start: Start, nats_server: NatsServer, name: str, number: signal.Signals
) -> None:
    worker = start("work", takes=0.5, workers=2, on_signals=True)
    all_ready(worker)
    assert start("produce", items=[1, 2, 3, 4, 5]).wait() == 0
    wait_for("two in hand", lambda: len(worker.items("began")) >= 2, BOUND, every=0.01)
    worker.process.send_signal(number)
    assert worker.wait() == 0
    (end,) = worker.notes("stopped")
    assert end["all_done"] is True
    done = worker.items("done")
    assert sorted(worker.items("began")) == sorted(done)
    assert messages(nats_server, name) == 5 - len(done)


def test_a_signal_with_a_timeout_hands_back_what_is_in_hand(start: Start) -> None:
    victim = start("work", takes=60, workers=2, on_signals=True, stop_timeout=0.2)
    all_ready(victim)
    assert start("produce", items=[1, 2]).wait() == 0
    wait_for("both in hand", lambda: len(victim.items("began")) == 2, BOUND, every=0.01)
    heir = start("work", workers=2)
    all_ready(heir)
    victim.process.send_signal(signal.SIGTERM)
    assert victim.wait() == 0
    (end,) = victim.notes("stopped")
    assert end["all_done"] is False
    # At once, and not after ack_wait, which is 30 s.
    wait_for("the heir to do them", lambda: len(heir.items("done")) == 2, 5, every=0.01)
    heir.let_end()
    assert heir.wait() == 0
    given_up = max(note["at"] for note in victim.notes("cancelled"))
    assert max(note["at"] for note in heir.notes("done")) - given_up < SLACK
