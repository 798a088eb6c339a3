"""Two thousand random programs; ``make simulate SEEDS=100000`` runs more.

A failure tells the story of its program, made shorter, and the command that runs just that again.
And defects are planted in the library: a simulation that does not find them proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from penstock.accounts import Accounts
from penstock.buffer import Buffer
from penstock.executors import AsyncExecutor
from penstock.takers import Takers
from simulation.run import shrink, simulate

SEEDS = 2000
CHUNK = 50

#: Programs in which a planted defect must show.
SOON = 200


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_programs(first: int) -> None:
    for broken in simulate(first, CHUNK):
        if broken is not None:
            raise shrink(broken)


def lose_what_is_given_back(self: Any, entry: Any) -> None:
    self.wake()


def count_twice(self: Any) -> None:
    self.processed += 2
    self.settle()


def count_one_too_many(self: Any, field: str) -> None:
    setattr(self, field, getattr(self, field) + 1 + (field == "full"))


def let_the_last_in_first(self: Any) -> None:
    while self._putters and len(self.line) < self.room:
        _, (waiter, item, context, ticket) = self._putters.popitem(last=True)
        if not waiter.done():
            self._order = order = self._order + 1
            self._granted[order] = entry = (order, item, context, ticket)
            self.line.append(entry)
            waiter.set_result(entry)


def leave_the_timer(self: Any) -> None:
    self._alarm, self._alarm_at = None, float("inf")


def keep_a_cancelled_put(self: Any, number: int, waiter: Any) -> None:
    if self._putters.pop(number, None) is None and waiter.done() and not waiter.cancelled():
        self._granted.pop(getattr(waiter.result(), "__getitem__", lambda _: None)(0), None)


async def forget_to_call_another(self: Any, waiter: Any, timeout: float | None = None) -> bool:
    try:
        return await asyncio.wait_for(waiter, timeout)
    except asyncio.TimeoutError:
        return False
    finally:
        self._takers.pop(waiter, None)
        self._called.discard(waiter)


def look_at_no_exception(self: Any, call: Any) -> None:
    self._calls.discard(call)


@pytest.mark.parametrize(
    ("owner", "name", "defect", "program"),
    [
        (Buffer, "give_back", lose_what_is_given_back, "queue"),
        (Accounts, "count_finished", count_twice, "queue"),
        (Accounts, "add", count_one_too_many, "queue"),
        (Buffer, "_grant", let_the_last_in_first, "queue"),
        (Buffer, "_clear_alarm", leave_the_timer, "queue"),
        (Buffer, "_withdraw", keep_a_cancelled_put, "queue"),
        (Takers, "_be_called", forget_to_call_another, "queue"),
        (Buffer, "give_back", lose_what_is_given_back, "rules"),
        (AsyncExecutor, "_has_ended", look_at_no_exception, "face"),
    ],
)
def test_a_planted_defect_is_found(
    monkeypatch: pytest.MonkeyPatch,
    owner: type[Any],
    name: str,
    defect: Callable[..., Any],
    program: str,
) -> None:
    monkeypatch.setattr(owner, name, defect)
    most = SOON if program != "face" else 20 * SOON  # two cancellations must meet an exception
    found = next(filter(None, islice(simulate(0, most, program=program), most)), None)
    assert found is not None, f"{most} programs did not notice {defect.__name__}"
