"""A job of 400 calls to a server with a rate limit: ``python -m benchmarks.rate_limited_server``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import httpx

from benchmarks import harness
from benchmarks.harness import Goal
from benchmarks.limited_clients import (
    TLS,
    Client,
    Item,
    Told,
    Work,
    naive,
    penstock,
    with_aiolimiter,
    with_aiometer,
)
from benchmarks.limited_server import Service, minimum

ROOT = Path(__file__).resolve().parents[1]
MARGIN = 0.04
#: Calls under way where the service does not bound them.
MOST_AT_ONCE = 40

PLAIN, SPREAD, ADAPTIVE = "penstock", "penstock, margin and spread", "penstock, AdaptiveConcurrency"
CLIENTS: dict[str, Client] = {
    PLAIN: penstock,
    SPREAD: partial(penstock, margin=MARGIN),
    "gather, semaphore, tenacity": naive,
    "aiolimiter, tenacity": with_aiolimiter,
    "aiolimiter without bursts, tenacity": partial(with_aiolimiter, bursts=False),
    "aiometer, tenacity": with_aiometer,
}
TOO_HIGH = CLIENTS | {ADAPTIVE: partial(penstock, adapt=True)}

#: Nobody knows the limits, and the service does not say when to come back.
UNKNOWN: dict[str, Client] = {
    PLAIN: partial(penstock, knows=False),
    "gather, semaphore, tenacity": naive,
}

KNOWN_GOAL, TOO_HIGH_GOAL, REFUSED_GOAL = 1.10, 1.30, 1.0
UNKNOWN_GOAL, UNKNOWN_CALLS = 1.5, 1.5


@dataclass(frozen=True)
class Outcome:
    """What came of one client's job."""

    seconds: float
    ratio: float
    refused: int
    calls: int
    lost: int
    doubled: int


@dataclass
class Scenario:
    """A service, a job, and what the clients are told about the service."""

    title: str
    service: Service
    items: list[Item]
    factor: float = 1.0
    clients: dict[str, Client] = field(default_factory=lambda: CLIENTS)
    #: By the name of the client, one a round.
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    @property
    def minimum(self) -> float:
        return minimum(self.service, [item.tokens for item in self.items])

    @property
    def told(self) -> Told:
        service = self.service
        tokens = None if service.tokens is None else int(service.tokens * self.factor)
        at_once = min(service.at_once, MOST_AT_ONCE)
        return Told(int(service.calls * self.factor), service.per, at_once, tokens)

    async def run(self, name: str, server: str) -> None:
        """Let one client do the job; the server then says what happened there."""
        async with httpx.AsyncClient(base_url=server, verify=TLS, trust_env=False) as http:
            job = (await http.post("/jobs", json=asdict(self.service))).json()["job"]
            work = Work(self.items, self.told, f"{server}/jobs/{job}/")
            begin = perf_counter()
            await self.clients[name](work)
            seconds = perf_counter() - begin
            report = (await http.get(f"/jobs/{job}")).json()
        done = {int(number): count for number, count in report["done"].items()}
        answered = set(work.done) & done.keys()
        doubled = sum(done.values()) - len(done) + len(work.done) - len(set(work.done))
        outcome = Outcome(
            seconds=seconds,
            ratio=seconds / self.minimum,
            refused=report["answers"].get("429", 0),
            calls=sum(report["answers"].values()),
            lost=len(self.items) - len(answered),
            doubled=doubled,
        )
        self.outcomes.setdefault(name, []).append(outcome)

    def middle(self, name: str) -> Outcome:
        """The median of each time and count; of what must not happen, the most."""
        all_of_it = self.outcomes[name]
        return Outcome(
            seconds=statistics.median(one.seconds for one in all_of_it),
            ratio=statistics.median(one.ratio for one in all_of_it),
            refused=statistics.median_high(one.refused for one in all_of_it),
            calls=statistics.median_high(one.calls for one in all_of_it),
            lost=max(one.lost for one in all_of_it),
            doubled=max(one.doubled for one in all_of_it),
        )

    def table(self) -> str:
        rows = []
        for name in self.clients:
            one = self.middle(name)
            figures = (f"{one.seconds:.1f}", f"{one.ratio:.2f}", one.refused, one.lost, one.doubled)
            rows.append((name, *map(str, figures)))
        head = ("", "seconds", "over the minimum", "answers of 429", "lost", "doubled")
        known = f"{len(self.items)} items; no client can beat {self.minimum:.1f} s."
        return f"{known}\n\n{harness.table(head, rows)}"


def scenarios(scale: float) -> list[Scenario]:
    def some(count: int) -> list[Item]:
        return [Item(number) for number in range(int(count * scale))]

    sliding = Service()
    # A minute takes six seconds, or less.
    minute = max(1.0, 6.0 * scale)
    tokens = Service(calls=60, per=minute, tokens=12_000)
    luck = random.Random(1)
    sizes = [
        min(3_000, int(luck.lognormvariate(math.log(250), 0.8)))
        for _ in range(max(12, int(120 * scale)))
    ]
    mixed = [Item(number, size) for number, size in enumerate(sizes)]
    bare = Service(calls=50, at_once=1000, latency=0.1, names_time=False)
    lowers = replace(sliding, lowers_after=int(100 * scale))
    return [
        Scenario("Limits known, sliding window", sliding, some(400)),
        Scenario("Limits known, fixed window", replace(sliding, window="fixed"), some(200)),
        Scenario("Told twice as much as is allowed", sliding, some(400), 2.0, TOO_HIGH),
        Scenario("The server halves its limit halfway", lowers, some(200), clients=TOO_HIGH),
        Scenario("Requests and tokens, mixed sizes", tokens, mixed),
        Scenario("Nothing known, bare 429s", bare, some(600), clients=UNKNOWN),
    ]


@contextmanager
def server() -> Iterator[str]:
    """Run the server and yield its address."""
    command = [sys.executable, "-m", "benchmarks.limited_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            yield url
        finally:
            process.terminate()


async def hold(contests: list[Scenario], url: str, options: harness.Options) -> None:
    if options.quick:  # all at once: they are in each other's way, but it is quick
        runs = [scenario.run(name, url) for scenario in contests for name in scenario.clients]
        await asyncio.gather(*runs)
        return
    for _ in range(options.rounds):
        for scenario in contests:
            for name in random.sample(list(scenario.clients), len(scenario.clients)):
                await scenario.run(name, url)
                print(f"{scenario.title}: {name}: {scenario.outcomes[name][-1]}", file=sys.stderr)


def goals(known: Scenario, too_high: Scenario, unknown: Scenario) -> list[Goal]:
    found = []
    for scenario, name, bound in (
        (known, PLAIN, KNOWN_GOAL),
        (known, SPREAD, KNOWN_GOAL),
        (too_high, PLAIN, TOO_HIGH_GOAL),
        (too_high, ADAPTIVE, TOO_HIGH_GOAL),
    ):
        one = scenario.middle(name)
        what = f"{scenario.title}: {name}"
        found.append(Goal(f"{what}: time over the minimum", bound, one.ratio))
        if scenario is known:
            share = 100 * one.refused / one.calls
            found.append(Goal(f"{what}: answers of 429, per cent", REFUSED_GOAL, share, "{:.1f}"))
        found.append(Goal(f"{what}: lost or doubled", 0, one.lost + one.doubled, "{:.0f}"))
    one, what = unknown.middle(PLAIN), f"{unknown.title}: {PLAIN}"
    found.append(Goal(f"{what}: time over the minimum", UNKNOWN_GOAL, one.ratio))
    found.append(Goal(f"{what}: calls an item", UNKNOWN_CALLS, one.calls / len(unknown.items)))
    found.append(Goal(f"{what}: lost or doubled", 0, one.lost + one.doubled, "{:.0f}"))
    return found


def main() -> None:
    options = harness.options("Do a job against a server with a rate limit.", rounds=1)
    held = scenarios(0.05 if options.quick else 1.0)
    with server() as url:
        asyncio.run(hold(held, url, options))
    packages = ("penstock", "httpx", "tenacity", "aiolimiter", "aiometer")
    about = f"{harness.surroundings(packages)}; rounds: {options.rounds}"
    report = harness.report(about, goals(held[0], held[2], held[-1]), held)
    harness.publish("a rate-limited server", report, write=options.write)


if __name__ == "__main__":
    main()
