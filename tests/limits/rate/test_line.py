"""The line: who may start next. Time is a number here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.rate.gate import Gate
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.line import Line, Waiter


@dataclass
class Model:
    """A line with limits, and all that has started, to be checked by brute force."""

    limits: list[Limit]
    now: float = 0.0
    line: Line = field(default_factory=lambda: Line(Gate()))
    waiting: list[Waiter] = field(default_factory=list)
    pending: list[Waiter] = field(default_factory=list)
    records: dict[Waiter, Any] = field(default_factory=dict)
    #: By meter: when, how much, of whom.
    starts: dict[Any, list[list[Any]]] = field(default_factory=dict)

    def enter(self, *needs: tuple[Limit, Any, Any]) -> Waiter:
        waiter = Waiter(tuple((limit.meter(key, self.now), cost) for limit, key, cost in needs))
        self.waiting.append(waiter)
        self.line.enter(waiter)
        self.turn()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self.line.leave(waiter)
        elif waiter in self.pending:
            self.pending.remove(waiter)
            self.line.give_back(waiter)
        self.turn()

    def turn(self) -> list[Waiter]:
        started = self.line.turn(self.now)
        for waiter in started:
            self.waiting.remove(waiter)
            self.pending.append(waiter)
        for waiter in started:
            for meter, _ in waiter.needs:
                assert self.used(meter) <= meter.limit.max, "more than the limit started"
        self.check_that_nobody_waits_in_vain()
        return started

    def used(self, meter: Any) -> Any:
        """What lies in the window that ends now, and what is about to start."""
        per = Fraction(meter.limit.per)
        done = self.starts.get(meter, ())
        window = [cost for at, cost, _ in done if Fraction(self.now) - Fraction(at) < per]
        coming = [cost for waiter in self.pending for m, cost in waiter.needs if m is meter]
        return sum(window) + sum(coming)

    def confirm(self) -> None:
        for waiter in self.pending:
            for meter, cost in waiter.needs:
                self.starts.setdefault(meter, []).append([self.now, cost, waiter])
        pending, self.pending = self.pending, []
        for waiter in pending:
            assert waiter.records is not None
            self.records[waiter] = waiter.records
            self.line.confirm(self.now, waiter)
            self.line.give_back(waiter)  # which is too late, and does nothing
        self.turn()

    def settle(self, waiter: Waiter, cost: int) -> None:
        for (meter, _), record in zip(waiter.needs, self.records[waiter], strict=True):
            for start in self.starts[meter]:
                if start[2] is waiter and self.now - start[0] < meter.limit.per:
                    start[1] = cost
            meter.log.settle(record, cost)
            self.line.freed(meter)
        self.turn()

    def lacks(self, waiter: Waiter) -> set[Any]:
        return {m for m, cost in waiter.needs if m.log.free_at(self.now, cost) > self.now}

    def check_that_nobody_waits_in_vain(self) -> None:
        heads: dict[Any, Waiter] = {}
        for waiter in self.waiting:
            heads.setdefault(tuple(m for m, _ in waiter.needs), waiter)
        blocked: set[Any] = set()
        for waiter in heads.values():  # in order of age
            assert self.lacks(waiter) or blocked & {m for m, _ in waiter.needs}
            blocked |= self.lacks(waiter)

    def run_until_all_started(self) -> list[Waiter]:
        order = []
        for _ in range(1000):
            order += self.pending
            self.confirm()
            order += self.pending
            self.confirm()
            if not self.waiting:
                return order
            when = self.line.next_turn(self.now)
            assert self.now < when < math.inf, "somebody waits, and nothing will happen"
            self.now = when
            self.turn()
        raise AssertionError("some never start")


def names(waiters: list[Waiter], of: dict[str, Waiter]) -> list[str]:
    return [name for waiter in waiters for name, each in of.items() if each is waiter]


def test_a_large_cost_is_not_overtaken_by_small_ones() -> None:
    tokens = Limit(10, 10)
    model = Model([tokens])
    first = model.enter((tokens, None, 5))
    model.confirm()
    large = model.enter((tokens, None, 10))
    small = model.enter((tokens, None, 1))
    of = {"first": first, "large": large, "small": small}
    assert names(model.run_until_all_started(), of) == ["large", "small"]


def test_a_busy_key_does_not_hold_up_another() -> None:
    per_key, overall = Limit(1, 10, key=str), Limit(3, 1)
    model = Model([per_key, overall])
    of = {
        name: model.enter((overall, None, 1), (per_key, name[0], 1))
        for name in ("a1", "a2", "a3", "b1", "c1", "d1")
    }
    assert names(model.pending, of) == ["a1", "b1", "c1"]
    assert names(model.run_until_all_started(), of) == ["a1", "b1", "c1", "d1", "a2", "a3"]
    assert model.now == 20


def test_what_needs_none_of_the_blocked_meters_may_pass() -> None:
    requests, tokens = Limit(5, 1), Limit(10, 10)
    model = Model([requests, tokens])
    model.enter((requests, None, 1), (tokens, None, 8))
    model.confirm()
    model.enter((requests, None, 1), (tokens, None, 8))
    passes = model.enter((requests, None, 1))
    waits = model.enter((requests, None, 1), (tokens, None, 1))
    assert model.pending == [passes]
    assert model.waiting[-1] is waits


def test_nothing_is_taken_of_one_limit_while_another_has_no_room() -> None:
    requests, tokens = Limit(5, 1), Limit(10, 100)
    model = Model([requests, tokens])
    for _ in range(3):
        model.enter((requests, None, 1), (tokens, None, 10))
    model.confirm()
    assert model.used(requests.meter(None, 0)) == 1
    assert requests.meter(None, 0).log.free_at(0, 4) <= 0


def test_idle_groups_and_looks_leave_nothing_behind() -> None:
    limit = Limit(1, 10)
    model = Model([limit])
    holder = model.enter((limit, None, 1))
    model.confirm()
    model.enter((limit, None, 1))
    for _ in range(1000):
        model.settle(holder, 1)
        model.leave(model.enter((limit, None, 1)))
    assert len(model.line._due) < 200
    model.run_until_all_started()
    assert not model.line._groups
    assert not model.line._todo


steps = st.one_of(
    st.tuples(
        st.just("enter"),
        st.sampled_from(["r", "t", "k", "rt", "rk", "tk", "rtk"]),
        st.integers(1, 6),
        st.sampled_from("abc"),
    ),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.floats(0, 3)),
    st.tuples(st.just("next")),
    st.tuples(st.just("confirm")),
    st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 12)),
    st.tuples(st.just("change"), st.sampled_from("rtk"), st.integers(6, 12), st.floats(0.1, 4)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_whatever_happens_no_window_holds_too_much_and_everybody_starts_in_the_end(
    steps: list[tuple[Any, ...]],
) -> None:
    limits = {"r": Limit(6, 1), "t": Limit(10, 2.5), "k": Limit(6, 3, key=str)}
    model = Model(list(limits.values()))
    all_waiters: list[Waiter] = []
    gone: set[Waiter] = set()
    started: list[Waiter] = []
    for what, *args in steps:
        if what == "enter":
            kinds, cost, key = args
            needs = [(limits[k], key if k == "k" else None, 1 if k == "r" else cost) for k in kinds]
            all_waiters.append(model.enter(*needs))
        elif what == "leave" and all_waiters:
            waiter = all_waiters[args[0] % len(all_waiters)]
            if waiter in model.waiting or waiter in model.pending:
                gone.add(waiter)
            model.leave(waiter)
        elif what == "wait":
            model.now += args[0]
            model.turn()
        elif what == "next" and model.line.next_turn(model.now) < math.inf:
            model.now = max(model.now, model.line.next_turn(model.now))
            model.turn()
        elif what == "confirm":
            started += model.pending
            model.confirm()
        elif what == "settle" and started:
            model.settle(started[args[0] % len(started)], args[1])
        elif what == "change":
            limits[args[0]].change(max=args[1], per=args[2])
            model.line.reconsider()
            model.turn()
    started += model.run_until_all_started()
    assert set(started) == set(all_waiters) - gone
    by_group: dict[Any, list[int]] = {}
    for waiter in started:
        by_group.setdefault(tuple(m for m, _ in waiter.needs), []).append(waiter.age)
    assert all(ages == sorted(ages) for ages in by_group.values()), "first come, first served"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_after_a_storm_of_cancellations_the_whole_limit_is_there(cancel: list[bool]) -> None:
    limit = Limit(5, 10)
    model = Model([limit])
    waiters = [model.enter((limit, None, 1)) for _ in cancel]
    for waiter, gone in zip(waiters, cancel, strict=True):
        if gone:
            model.leave(waiter)
    model.run_until_all_started()
    model.now += 10
    assert limit.meter(None, model.now).log.is_idle(model.now)
    for _ in range(5):
        model.enter((limit, None, 1))
    assert len(model.pending) == 5


# -- for those whose right to start ends ----------------------------------------------------------


def lines_of_two() -> tuple[Line, list[Waiter]]:
    """A line of four who wait for one limit or another, by turns; nobody can start."""
    line = Line(Gate())
    limits = [Limit(1, 10, name="a"), Limit(1, 10, name="b")]
    for limit in limits:
        limit.meter(None, 0).log.record(0, 1)
    waiters = [Waiter(((limits[number % 2].meter(None, 0), 1),)) for number in range(4)]
    for waiter in waiters:
        line.enter(waiter)
    return line, waiters


def test_the_oldest_are_told_by_their_age() -> None:
    line, waiters = lines_of_two()
    assert line.oldest(3) == waiters[:3]
    assert line.oldest(9) == waiters
    assert line.oldest(0) == []


def test_who_was_let_through_and_came_too_late_is_the_first_again() -> None:
    line, waiters = lines_of_two()
    assert line.turn(10) == waiters[:2]
    line.enter_again(waiters[0])
    line.confirm(10, waiters[1])
    assert line.oldest(9) == [waiters[0], *waiters[2:]]
    assert line.turn(10) == [waiters[0]], "nobody overtook"


def test_those_who_come_too_late_together_are_in_their_old_order() -> None:
    line = Line(Gate())
    limit = Limit(3, 10)
    waiters = [Waiter(((limit.meter(None, 0), 1),)) for _ in range(6)]
    for waiter in waiters:
        line.enter(waiter)
    late = line.turn(0)
    assert late == waiters[:3]
    for waiter in late:
        line.enter_again(waiter)
    assert line.turn(0) == late
    for waiter in (late[1], late[2], late[0]):  # in whatever order they notice
        line.enter_again(waiter)
    assert line.oldest(9) == waiters
    assert line.turn(0) == late


def test_who_comes_back_alone_waits_as_before() -> None:
    line = Line(Gate())
    waiter = Waiter(((Limit(1, 10).meter(None, 0), 1),))
    line.enter(waiter)
    assert line.turn(0) == [waiter]
    line.enter_again(waiter)
    assert line.waiting == 1
    assert line.turn(0) == [waiter]


def test_all_can_be_sent_away() -> None:
    line, waiters = lines_of_two()
    error = RuntimeError("closed")
    assert line.dismiss(error) == waiters
    assert line.waiting == 0
    assert all(waiter.error is error and waiter.group is None for waiter in waiters)
    assert line.turn(100) == []
