"""Random programs of several machines, each checked in the end, and their bound all the time.

A failure tells the story of its program and how to run that one again, by its seed:
``PENSTOCK_SEED=1234 pytest tests/brokers/nats -k one_seed``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator

import pytest

from brokers.nats.helpers import show
from brokers.nats.model import Schedule
from brokers.servers import NatsServer
from penstock._util.compat import Self

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # of nats-py
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: Another one each time would be a test that fails for somebody else.
SEEDS = int(os.environ.get("PENSTOCK_SEEDS", "6"))


@pytest.fixture(autouse=True)
def leave_no_leaks() -> Iterator[None]:
    yield
    gc.collect()


class Watch:
    """Asks the server's monitoring how full streams are, again and again."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self.most: dict[str, int] = {}
        self.looks = 0

    def _look(self) -> None:
        while not self._over.wait(0.02):
            told = self._server.monitor("/jsz?streams=true") or {}
            self.looks += 1
            for account in told.get("account_details") or ():
                for detail in account.get("stream_detail") or ():
                    count = detail["state"]["messages"]
                    self.most[detail["name"]] = max(count, self.most.get(detail["name"], 0))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join(60)


async def run_all(server: NatsServer, name: str, seeds: list[int]) -> None:
    schedules = [Schedule(seed, server, f"{name}-{seed}") for seed in seeds]
    with Watch(server) as watch:
        outcomes = await asyncio.gather(
            *(schedule.run() for schedule in schedules), return_exceptions=True
        )
    for seed, schedule, outcome in zip(seeds, schedules, outcomes, strict=True):
        if outcome is not None:
            raise AssertionError(
                f"{type(outcome).__name__}: {outcome}\n"
                f"Again: PENSTOCK_SEED={seed} pytest tests/brokers/nats -k one_seed"
            ) from outcome
        show("seed", seed, schedule.figures)
        assert watch.most[schedule.name] <= schedule.maxsize
    assert watch.looks > 10


@pytest.mark.parametrize("chunk", range(0, SEEDS, 6))
async def test_random_programs(nats_server: NatsServer, name: str, chunk: int) -> None:
    await run_all(nats_server, name, list(range(chunk, min(chunk + 6, SEEDS))))


@pytest.mark.skipif("PENSTOCK_SEED" not in os.environ, reason="for a seed of your own")
async def test_one_seed(nats_server: NatsServer, name: str) -> None:
    await run_all(nats_server, name, [int(os.environ["PENSTOCK_SEED"])])
