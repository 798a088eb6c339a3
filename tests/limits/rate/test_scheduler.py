"""The scheduler: who may start next. Time is a number here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.limits.rate.gate import Closures, Gate
from penstock.limits.rate.gates import KeyedGates
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.scheduler import Scheduler
from penstock.limits.rate.window import LimitWindow, Waiter


@dataclass
class Model:
    """A scheduler with limits, and all that has started, to be checked by brute force."""

    limits: list[Limit]
    now: float = 0.0
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(Gate()))
    waiting: list[Waiter] = field(default_factory=list)
    pending: list[Waiter] = field(default_factory=list)
    records: dict[Waiter, Any] = field(default_factory=dict)
    #: By window: when, how much, of whom.
    starts: dict[LimitWindow, list[list[Any]]] = field(default_factory=dict)

    def add(self, *demand: tuple[Limit, Any, Any]) -> Waiter:
        windows = ((limit._state.window(key, self.now), cost) for limit, key, cost in demand)
        waiter = Waiter(tuple(windows))
        self.waiting.append(waiter)
        self.scheduler.add(waiter)
        self.grant()
        return waiter

    def remove(self, waiter: Waiter) -> None:
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self.scheduler.remove(waiter)
        elif waiter in self.pending:
            self.pending.remove(waiter)
            self.scheduler.cancel(waiter)
        self.grant()

    def grant(self) -> list[Waiter]:
        granted = self.scheduler.grant(self.now)
        for waiter in granted:
            self.waiting.remove(waiter)
            self.pending.append(waiter)
        for waiter in granted:
            for window, _ in waiter.demand:
                assert self.used(window) <= window.owner.max, "more than the limit started"
        self.check_that_nobody_waits_in_vain()
        return granted

    def used(self, window: LimitWindow) -> Any:
        """What lies in the window that ends now, and what is about to start."""
        per = Fraction(window.owner.per)
        done = self.starts.get(window, ())
        counted = [cost for at, cost, _ in done if Fraction(self.now) - Fraction(at) < per]
        coming = [cost for waiter in self.pending for w, cost in waiter.demand if w is window]
        return sum(counted) + sum(coming)

    def confirm(self) -> None:
        for waiter in self.pending:
            for window, cost in waiter.demand:
                self.starts.setdefault(window, []).append([self.now, cost, waiter])
        pending, self.pending = self.pending, []
        for waiter in pending:
            assert waiter.records is not None
            self.records[waiter] = waiter.records
            self.scheduler.confirm(self.now, waiter)
            self.scheduler.cancel(waiter)  # which is too late, and does nothing
        self.grant()

    def settle(self, waiter: Waiter, cost: int) -> None:
        for (window, _), record in zip(waiter.demand, self.records[waiter], strict=True):
            for start in self.starts[window]:
                if start[2] is waiter and self.now - start[0] < window.owner.per:
                    start[1] = cost
            window.log.settle(record, cost)
            self.scheduler.recheck(window)
        self.grant()

    def lacks(self, waiter: Waiter) -> set[LimitWindow]:
        return {w for w, cost in waiter.demand if w.log.free_at(self.now, cost) > self.now}

    def check_that_nobody_waits_in_vain(self) -> None:
        heads: dict[Any, Waiter] = {}
        for waiter in self.waiting:
            heads.setdefault(tuple(w for w, _ in waiter.demand), waiter)
        blocked: set[LimitWindow] = set()
        for waiter in heads.values():  # in order of age
            assert self.lacks(waiter) or blocked & {w for w, _ in waiter.demand}
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
            when = self.scheduler.next_grant(self.now)
            assert self.now < when < math.inf, "somebody waits, and nothing will happen"
            self.now = when
            self.grant()
        raise AssertionError("some never start")


def names(waiters: list[Waiter], of: dict[str, Waiter]) -> list[str]:
    return [name for waiter in waiters for name, each in of.items() if each is waiter]


def test_a_large_cost_is_not_overtaken_by_small_ones() -> None:
    tokens = Limit(10, 10)
    model = Model([tokens])
    first = model.add((tokens, None, 5))
    model.confirm()
    large = model.add((tokens, None, 10))
    small = model.add((tokens, None, 1))
    of = {"first": first, "large": large, "small": small}
    assert names(model.run_until_all_started(), of) == ["large", "small"]


def test_a_busy_key_does_not_hold_up_another() -> None:
    per_key, overall = Limit(1, 10, key=str), Limit(3, 1)
    model = Model([per_key, overall])
    of = {
        name: model.add((overall, None, 1), (per_key, name[0], 1))
        for name in ("a1", "a2", "a3", "b1", "c1", "d1")
    }
    assert names(model.pending, of) == ["a1", "b1", "c1"]
    assert names(model.run_until_all_started(), of) == ["a1", "b1", "c1", "d1", "a2", "a3"]
    assert model.now == 20


def test_what_needs_none_of_the_blocked_windows_may_pass() -> None:
    requests, tokens = Limit(5, 1), Limit(10, 10)
    model = Model([requests, tokens])
    model.add((requests, None, 1), (tokens, None, 8))
    model.confirm()
    model.add((requests, None, 1), (tokens, None, 8))
    passes = model.add((requests, None, 1))
    waits = model.add((requests, None, 1), (tokens, None, 1))
    assert model.pending == [passes]
    assert model.waiting[-1] is waits


def test_nothing_is_taken_of_one_limit_while_another_has_no_room() -> None:
    requests, tokens = Limit(5, 1), Limit(10, 100)
    model = Model([requests, tokens])
    for _ in range(3):
        model.add((requests, None, 1), (tokens, None, 10))
    model.confirm()
    assert model.used(requests._state.window(None, 0)) == 1
    assert requests._state.window(None, 0).log.free_at(0, 4) <= 0


def test_idle_groups_and_checks_leave_nothing_behind() -> None:
    limit = Limit(1, 10)
    model = Model([limit])
    holder = model.add((limit, None, 1))
    model.confirm()
    model.add((limit, None, 1))
    for _ in range(1000):
        model.settle(holder, 1)
        model.remove(model.add((limit, None, 1)))
    assert len(model.scheduler._planned) < 200
    model.run_until_all_started()
    assert not model.scheduler._groups
    assert not model.scheduler._to_check


steps = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(["r", "t", "k", "rt", "rk", "tk", "rtk"]),
        st.integers(1, 6),
        st.sampled_from("abc"),
    ),
    st.tuples(st.just("remove"), st.integers(0, 50)),
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
        if what == "add":
            kinds, cost, key = args
            demand = [
                (limits[k], key if k == "k" else None, 1 if k == "r" else cost) for k in kinds
            ]
            all_waiters.append(model.add(*demand))
        elif what == "remove" and all_waiters:
            waiter = all_waiters[args[0] % len(all_waiters)]
            if waiter in model.waiting or waiter in model.pending:
                gone.add(waiter)
            model.remove(waiter)
        elif what == "wait":
            model.now += args[0]
            model.grant()
        elif what == "next" and model.scheduler.next_grant(model.now) < math.inf:
            model.now = max(model.now, model.scheduler.next_grant(model.now))
            model.grant()
        elif what == "confirm":
            started += model.pending
            model.confirm()
        elif what == "settle" and started:
            model.settle(started[args[0] % len(started)], args[1])
        elif what == "change":
            limits[args[0]].change(max=args[1], per=args[2])
            model.scheduler.recheck_all()
            model.grant()
    started += model.run_until_all_started()
    assert set(started) == set(all_waiters) - gone
    by_group: dict[Any, list[int]] = {}
    for waiter in started:
        by_group.setdefault(tuple(w for w, _ in waiter.demand), []).append(waiter.age)
    assert all(ages == sorted(ages) for ages in by_group.values()), "first come, first served"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_after_a_storm_of_cancellations_the_whole_limit_is_there(cancel: list[bool]) -> None:
    limit = Limit(5, 10)
    model = Model([limit])
    waiters = [model.add((limit, None, 1)) for _ in cancel]
    for waiter, gone in zip(waiters, cancel, strict=True):
        if gone:
            model.remove(waiter)
    model.run_until_all_started()
    model.now += 10
    assert limit._state.window(None, model.now).log.is_idle(model.now)
    for _ in range(5):
        model.add((limit, None, 1))
    assert len(model.pending) == 5


# -- for those whose right to start ends ----------------------------------------------------------


def scheduler_of_four() -> tuple[Scheduler, list[Waiter]]:
    """Four who wait for one limit or another, by turns; nobody can start."""
    scheduler = Scheduler(Gate())
    limits = [Limit(1, 10, name="a"), Limit(1, 10, name="b")]
    for limit in limits:
        limit._state.window(None, 0).log.record(0, 1)
    waiters = [Waiter(((limits[number % 2]._state.window(None, 0), 1),)) for number in range(4)]
    for waiter in waiters:
        scheduler.add(waiter)
    return scheduler, waiters


def test_the_oldest_come_in_the_order_of_their_age() -> None:
    scheduler, waiters = scheduler_of_four()
    assert scheduler.oldest(3) == waiters[:3]
    assert scheduler.oldest(9) == waiters
    assert scheduler.oldest(0) == []


def test_who_was_let_through_and_came_too_late_is_the_first_again() -> None:
    scheduler, waiters = scheduler_of_four()
    assert scheduler.grant(10) == waiters[:2]
    scheduler.requeue(waiters[0])
    scheduler.confirm(10, waiters[1])
    assert scheduler.oldest(9) == [waiters[0], *waiters[2:]]
    assert scheduler.grant(10) == [waiters[0]], "nobody overtook"


def test_those_who_come_too_late_together_are_in_their_old_order() -> None:
    scheduler = Scheduler(Gate())
    limit = Limit(3, 10)
    waiters = [Waiter(((limit._state.window(None, 0), 1),)) for _ in range(6)]
    for waiter in waiters:
        scheduler.add(waiter)
    late = scheduler.grant(0)
    assert late == waiters[:3]
    for waiter in late:
        scheduler.requeue(waiter)
    assert scheduler.grant(0) == late
    for waiter in (late[1], late[2], late[0]):  # in whatever order they notice
        scheduler.requeue(waiter)
    assert scheduler.oldest(9) == waiters
    assert scheduler.grant(0) == late


def test_who_comes_back_alone_waits_as_before() -> None:
    scheduler = Scheduler(Gate())
    waiter = Waiter(((Limit(1, 10)._state.window(None, 0), 1),))
    scheduler.add(waiter)
    assert scheduler.grant(0) == [waiter]
    scheduler.requeue(waiter)
    assert scheduler.waiting == 1
    assert scheduler.grant(0) == [waiter]


def test_all_can_be_rejected() -> None:
    scheduler, waiters = scheduler_of_four()
    error = RuntimeError("closed")
    assert scheduler.reject_all(error) == waiters
    assert scheduler.waiting == 0
    assert all(waiter.error is error and waiter.group is None for waiter in waiters)
    assert scheduler.grant(100) == []


def test_a_gate_may_close_for_one_that_is_about_to_be_looked_at() -> None:
    """Then it is the head of another group, and both are to be looked at."""
    gates = KeyedGates(None, Closures())
    scheduler = Scheduler(Gate(), gates.waiters)
    window = Limit(1, 10)._state.window(None, 0)
    window.log.record(0, 1)
    waiters = [Waiter(((window, 1),)) for _ in range(2)]
    for number, waiter in enumerate(waiters):
        waiter.gate_key = number
        scheduler.add(waiter)
    for number in range(2):
        log, _ = gates.make(number, 0)
        log.gate.close(0, 5)
        gate = gates.window_of(number)
        assert gate is not None
        scheduler.close_gate(gate)
    assert scheduler.grant(1) == []
    assert scheduler.next_grant(1) >= 5
    assert scheduler.grant(10) == waiters[:1]
