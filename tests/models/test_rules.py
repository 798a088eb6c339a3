"""Random programs under random rules, each checked for what the rules promise.

A failure tells the story of its program and how to run that one again:
``PENSTOCK_SEED=1234 pytest tests/models/test_rules.py -k one_seed``. For more of them:
``PENSTOCK_SEEDS=20000``.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

import pytest

from models.loops import ObservedLoop, ShuffledLoop
from models.rules import Program
from models.test_schedules import bury
from penstock.limits import retry

SEEDS = int(os.environ.get("PENSTOCK_SEEDS", "200"))


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """It would take a quarter of the time."""
    gc.disable()
    yield
    gc.enable()


def run_one(seed: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Retries after a closed gate are spread by it; a program is to be the same each time.
    monkeypatch.setattr(retry, "_default_rng", random.Random(seed))
    loop = ShuffledLoop(seed) if order == "shuffled" else ObservedLoop()
    program = Program(seed, loop, adaptive=order == "adaptive")
    loop.observer = program
    try:
        loop.run_until_complete(program.run())
    except BaseException as error:
        loop.observer = None
        story = "\n".join(program.story[-60:])
        raise AssertionError(
            f"{story}\n{type(error).__name__}: {error}\n"
            f"{program.limits} {program.retry} {program.breaker} {program.deadline}\n"
            f"Again: PENSTOCK_SEED={seed} pytest tests/models/test_rules.py "
            f"-k 'one_seed and {order}'"
        ) from error
    finally:
        loop.observer = None
        bury(loop)


def test_random_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SEEDS):
        run_one(seed, "in-order", monkeypatch)


def test_random_rules_whatever_callback_runs_next(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SEEDS // 2):
        run_one(seed, "shuffled", monkeypatch)


def test_random_rules_with_adaptive_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SEEDS // 2):
        run_one(seed, "adaptive", monkeypatch)


@pytest.mark.parametrize("order", ["in-order", "shuffled", "adaptive"])
def test_one_seed(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_one(int(os.environ.get("PENSTOCK_SEED", "0")), order, monkeypatch)
