"""Processes that share one rate, on real servers. Ordinary clocks, real deaths."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers.servers import Cluster, NatsServer

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

PROGRAM = Path(__file__).parent / "machine.py"
#: A second. A start is noted to about a nanosecond on a clock that is wrong by days.
SECOND = 1.0 - 1e-6
#: Seconds after which something must have gone wrong.
BOUND = 100.0


class Machine:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        output, _ = self.process.communicate(timeout=BOUND)
        assert self.process.returncode == 0
        told: dict[str, Any] = json.loads(output)
        return told


@contextmanager
def machines(
    *urls: str,
    count: int = 4,
    waiters: int = 25,
    calls: int,
    skews: tuple[float, ...] = (),
) -> Iterator[list[Machine]]:
    """Machines that share a limit of 100 per second, and make ``calls`` each; they go together."""
    job = {
        "urls": urls,
        "name": uuid.uuid4().hex,
        "limits": [["calls", 100, 1]],
        "waiters": waiters,
        "calls": calls,
    }
    with ExitStack() as cleanup:
        made = []
        for number in range(count):
            skew = skews[number] if skews else 0.0
            process = cleanup.enter_context(
                subprocess.Popen(
                    [sys.executable, PROGRAM, json.dumps(job), str(skew)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            cleanup.callback(process.kill)
            made.append(Machine(process))
        for machine in made:
            machine.wait_until_ready()
        for machine in made:
            machine.go()
        yield made


def gathered(outcomes: list[dict[str, Any]]) -> list[float]:
    """When calls started, on all machines. (They are processes of one: their clock is the same.)"""
    return sorted(start for outcome in outcomes for start in outcome["starts"])


def most_in_a_second(starts: list[float]) -> int:
    return max(bisect_left(starts, begin + SECOND) - place for place, begin in enumerate(starts))


def test_four_machines_keep_to_one_rate_and_use_it_up(
    start_nats: Callable[..., NatsServer], each_nats_program: Path
) -> None:
    """100 per second for 25 waiters on each of four machines: nobody starves, and all is used."""
    server = start_nats(each_nats_program)
    with machines(server.url, calls=250) as made:
        outcomes = [machine.outcome() for machine in made]
    starts = gathered(outcomes)
    requests = sum(outcome["requests"] for outcome in outcomes) / len(starts)
    print_figures(each_nats_program.name, starts, requests)
    assert 97 <= most_in_a_second(starts) <= 100
    assert requests < 1


def test_the_rate_of_the_others_recovers_when_a_machine_dies(nats_server: NatsServer) -> None:
    with machines(nats_server.url, calls=200) as made:
        made[0].process.kill()
        starts = gathered([machine.outcome() for machine in made[1:]])
    print_figures("one of four killed", starts)
    assert most_in_a_second(starts) <= 100
    assert most_in_a_second(starts[-300:]) >= 90, "what the dead one had is used by the others"


def test_clocks_may_be_wrong_by_days(nats_server: NatsServer) -> None:
    skews = (0.0, 100_000.0, -3600.0, 1e7)
    with machines(nats_server.url, calls=120, skews=skews) as made:
        starts = gathered([machine.outcome() for machine in made])
    print_figures("skewed", starts)
    assert 90 <= most_in_a_second(starts) <= 100


def test_a_server_that_is_killed_and_comes_back_lets_nobody_through_in_excess(
    start_nats: Callable[..., NatsServer], each_nats_program: Path
) -> None:
    server = start_nats(each_nats_program)
    with machines(server.url, calls=100) as made:
        server.kill()
        server.start()
        starts = gathered([machine.outcome() for machine in made])  # so it went on
    print_figures("server killed", starts)
    assert most_in_a_second(starts) <= 100


def test_a_cluster_whose_leader_dies_goes_on(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster()
    with machines(*cluster.urls, calls=150) as made:
        leader = cluster.leader("KV_penstock-limits")
        leader.kill()
        starts = gathered([machine.outcome() for machine in made])  # so it went on
    print_figures("leader killed", starts)
    assert most_in_a_second(starts) <= 100


def print_figures(what: str, starts: list[float], requests: float = 0.0) -> None:
    rate = len(starts) / (starts[-1] - starts[0])
    most = most_in_a_second(starts)
    sys.stdout.write(f"{what}: at most {most} in a second, {rate:.1f} per second")
    sys.stdout.write(f", {requests:.2f} requests a call\n" if requests else "\n")
