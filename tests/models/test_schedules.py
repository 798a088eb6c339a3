"""Thousands of random programs, each checked against a plain list after every step.

A failure tells the story of its program and how to run that one again, by its seed:
``PENSTOCK_SEED=1234 pytest tests/models -k one_seed``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterator

import pytest

from models.loops import ObservedLoop, ShuffledLoop
from models.schedule import Schedule


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """It would take a quarter of the time."""
    gc.disable()
    yield
    gc.enable()


def run_one(seed: int, order: str) -> None:
    loop = ShuffledLoop(seed) if order == "shuffled" else ObservedLoop()
    if order == "eager":
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    schedule = Schedule(seed, loop, first_come=order != "shuffled")
    try:
        loop.run_until_complete(schedule.run())
    except BaseException as error:
        loop.observer = None
        raise AssertionError(
            f"{schedule.model.story()}\n"
            f"{type(error).__name__}: {error}\n"
            f"Again: PENSTOCK_SEED={seed} pytest tests/models -k 'one_seed and {order}'"
        ) from error
    finally:
        bury(loop)


def bury(loop: ObservedLoop) -> None:
    """Close the loop; after a failure, without a word about the tasks that are still there."""
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(10):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.call_later(10, loop.stop)
        loop.run_forever()
    loop.close()


@pytest.mark.parametrize("chunk", range(20))
def test_random_schedules(chunk: int) -> None:
    for seed in range(chunk * 80, (chunk + 1) * 80):
        run_one(seed, "in-order")


@pytest.mark.parametrize("chunk", range(10))
def test_random_schedules_whatever_callback_runs_next(chunk: int) -> None:
    for seed in range(chunk * 50, (chunk + 1) * 50):
        run_one(seed, "shuffled")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("chunk", range(4))
def test_random_schedules_with_eager_tasks(chunk: int) -> None:
    for seed in range(chunk * 50, (chunk + 1) * 50):
        run_one(seed, "eager")


@pytest.mark.parametrize("order", ["in-order", "shuffled"])
def test_one_seed(order: str) -> None:
    run_one(int(os.environ.get("PENSTOCK_SEED", "0")), order)
