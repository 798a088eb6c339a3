"""Several processes and one file: the bound that they share, and those that are killed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from brokers.sqlite.crew import (
    Member,
    barrier,
    put_once_each,
    put_until_killed,
    take_all,
    take_and_hold,
    take_until_killed,
)
from brokers.sqlite.helpers import Opened

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


def test_four_processes_put_against_one_bound(path: Path) -> None:
    meet = barrier(4)
    crew = [Member(put_once_each, path, meet, list(range(k, 4000, 4)), 1000) for k in range(4)]
    accepted = [item for member in crew for item in member.hear()]
    queue = Opened(path, maxsize=1000)
    stored = [int(data) for data in queue.take_data(2000)]
    queue.close()
    assert len(accepted) == 1000
    assert sorted(stored) == sorted(accepted)


def test_what_a_killed_producer_was_told_is_in(path: Path) -> None:
    crew = [Member(put_until_killed, path, first) for first in (0, 1_000_000)]
    for _ in range(30):
        for member in crew:
            member.hear()
    for member in crew:
        member.kill()
    told: list[int] = []
    for first, member in zip((0, 1_000_000), crew, strict=True):
        told += [*range(first, first + 30), *member.all_it_said()]
    queue = Opened(path, maxsize=100_000)
    stored = [int(data) for data in queue.take_data(100_000)]
    assert queue.storage.size() == len(stored)
    queue.close()
    assert set(told) <= set(stored)
    assert len(stored) - len(told) <= 2  # each may have died before it could say so
    assert max(Counter(stored).values()) == 1


def test_what_a_killed_worker_had_comes_back_when_its_lease_ends(
    path: Path,
) -> None:
    queue = Opened(path, ack_wait=30)
    queue.put(b"a", b"b", b"c")
    worker = Member(take_and_hold, path, 2, {"ack_wait": 30})
    assert worker.hear() == [b"a", b"b"]
    worker.kill()
    assert queue.take_data() == [b"c"]
    queue.close()
    heir = Opened(path, clock=_later, ack_wait=30)
    assert [(item.data, item.deliveries) for item in heir.take(9)] == [
        (b"a", 2),
        (b"b", 2),
        (b"c", 2),
    ]
    heir.close()


def _later() -> float:
    """When all leases that are made now have ended."""
    return time.time() + 31


def test_two_workers_have_no_item_twice(path: Path) -> None:
    queue = Opened(path, maxsize=300)
    queue.put(*[str(number).encode() for number in range(300)])
    queue.close()
    meet = barrier(2)
    crew = [Member(take_all, path, meet, {"maxsize": 300}) for _ in range(2)]
    done = [data for member in crew for data in member.all_it_said()]
    assert Counter(done) == dict.fromkeys([str(number).encode() for number in range(300)], 1)


def test_workers_that_are_killed_one_after_the_other_lose_nothing(path: Path) -> None:
    items = [str(number).encode() for number in range(120)]
    queue = Opened(path, maxsize=300)
    queue.put(*items)
    done: list[bytes] = []
    kills = 0
    while kills < 4:
        victim = Member(take_until_killed, path, {"maxsize": 300})
        done += [victim.hear() for _ in range(20)]
        victim.kill()
        done += victim.all_it_said()
        kills += 1
    queue.close()
    heir = Opened(path, clock=_later, maxsize=300)
    while taken := heir.take():
        done.append(taken[0].data)
        heir.done(taken[0].lease)
    assert heir.storage.size() == 0
    heir.close()
    assert set(done) == set(items)
    assert len(done) - len(items) <= kills  # only what each had in hand came again
