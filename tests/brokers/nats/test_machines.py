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
#: By the rule it is 100. But a machine notes the time a moment after a call was let start, and
#: may be held up just there by the kernel: with one call at a time.
AT_MOST = 104
#: Seconds that a machine may take beyond its time.
BOUND = 40.0


class Machine:
    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.process, self.seconds = process, seconds

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        output, _ = self.process.communicate(timeout=self.seconds + BOUND)
        assert self.process.returncode == 0
        told: dict[str, Any] = json.loads(output)
        return told


@contextmanager
def machines(
    *urls: str,
    count: int = 4,
    waiters: int = 25,
    seconds: float,
    most: float = 100,
    skews: tuple[float, ...] = (),
) -> Iterator[list[Machine]]:
    """Machines that have started and share a limit of ``most`` per second; they go together."""
    job = {
        "urls": urls,
        "name": uuid.uuid4().hex,
        "limits": [["calls", most, 1]],
        "waiters": waiters,
        "seconds": seconds,
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
            made.append(Machine(process, seconds))
        for machine in made:
            machine.wait_until_ready()
        for machine in made:
            machine.go()
        yield made


def gathered(outcomes: list[dict[str, Any]]) -> list[float]:
    """When calls started, on all machines. (They are processes of one: their clock is the same.)"""
    return sorted(start for outcome in outcomes for start in outcome["starts"])


def most_in_a_second(starts: list[float]) -> int:
    return max(bisect_left(starts, begin + 1.0) - place for place, begin in enumerate(starts))


def in_the_best_seconds(starts: list[float], seconds: float) -> int:
    return max(bisect_left(starts, begin + seconds) - place for place, begin in enumerate(starts))


def test_four_machines_keep_to_one_rate_and_use_it_up(
    start_nats: Callable[..., NatsServer], each_nats_program: Path
) -> None:
    """100 per second for 25 waiters on each of four machines, for ten seconds."""
    server = start_nats(each_nats_program)
    runs = []
    # It is a rate that is to be reached, and not a speed; still a machine that is busy with other
    # things may stand still for so long that slots pass unused. Then once more.
    for _ in range(3):
        with machines(server.url, seconds=10.5) as made:
            outcomes = [machine.outcome() for machine in made]
        starts = gathered(outcomes)
        calls = sum(outcome["calls"] for outcome in outcomes) / len(starts)
        most, rate = most_in_a_second(starts), in_the_best_seconds(starts, 10) / 10
        print_figures(each_nats_program.name, most, rate, calls)
        runs.append((most <= 102, rate >= 97))
        assert most <= AT_MOST
        assert all(len(outcome["starts"]) > 50 for outcome in outcomes), "nobody starves"
        assert calls < 1
        if all(runs[-1]):
            break
    assert (True, True) in runs


def test_the_rate_of_the_others_recovers_when_a_machine_dies(nats_server: NatsServer) -> None:
    with machines(nats_server.url, seconds=6) as made:
        made[0].process.kill()
        outcomes = [machine.outcome() for machine in made[1:]]
    starts = gathered(outcomes)
    print_figures("one of four killed", most_in_a_second(starts), 0, 0)
    assert most_in_a_second(starts) <= AT_MOST
    assert in_the_best_seconds(starts[-400:], 3) >= 250


def test_clocks_may_be_wrong_by_days(nats_server: NatsServer) -> None:
    skews = (0.0, 100_000.0, -3600.0, 1e7)
    with machines(nats_server.url, seconds=5, skews=skews) as made:
        starts = gathered([machine.outcome() for machine in made])
    print_figures("skewed", most_in_a_second(starts), in_the_best_seconds(starts, 4) / 4, 0)
    assert most_in_a_second(starts) <= AT_MOST
    assert in_the_best_seconds(starts, 4) >= 320


def test_a_server_that_is_killed_and_comes_back_lets_nobody_through_in_excess(
    start_nats: Callable[..., NatsServer], each_nats_program: Path
) -> None:
    server = start_nats(each_nats_program)
    with machines(server.url, seconds=10) as made:
        server.kill()
        server.start()
        starts = gathered([machine.outcome() for machine in made])
    print_figures("server killed", most_in_a_second(starts), len(starts) / 10, 0)
    assert most_in_a_second(starts) <= AT_MOST
    assert len(starts) >= 300, "it went on"


def test_a_cluster_whose_leader_dies_goes_on(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster()
    with machines(*cluster.urls, seconds=20) as made:
        leader = cluster.leader("KV_penstock-limits")
        leader.kill()
        starts = gathered([machine.outcome() for machine in made])
    print_figures("leader killed", most_in_a_second(starts), len(starts) / 20, 0)
    assert most_in_a_second(starts) <= AT_MOST
    assert len(starts) >= 300, "it went on"


def print_figures(what: str, most: int, rate: float, calls: float) -> None:
    sys.stdout.write(f"{what}: at most {most} in a second, {rate} per second, {calls:.2f} calls\n")
