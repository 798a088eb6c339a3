"""Whatever machines do with the slots of a ledger, no window holds more than it may."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.brokers.nats.limits.leased_log import Lease, LeasedLog
from penstock.brokers.nats.limits.leases import (
    FAR,
    GRACE,
    ROOM,
    UNITS,
    Ledger,
    SharedLimit,
    amount,
    differences,
    micros,
)
from penstock.brokers.nats.limits.server_clock import ServerClock

#: A day on the server's clock.
DAY = 1_800_000_000 * UNITS


def most_in_any_window(starts: Sequence[tuple[float, float]], per: float) -> float:
    """The plain rule: the most that started, by (time, cost), in any ``[t, t + per)``."""
    return max(
        (sum(cost for at, cost in starts if begin <= at < begin + per) for begin, _ in starts),
        default=0.0,
    )


# -- many machines, one ledger, in simulated time -------------------------------------------------


class Bucket:
    """Keeps one value, and changes it only for who knows the last."""

    def __init__(self, data: bytes) -> None:
        self.data, self.revision = data, 0

    def write(self, data: bytes, revision: int) -> bool:
        if revision != self.revision:
            return False
        self.data, self.revision = data, revision + 1
        return True


@dataclass
class Machine:
    """One with a clock of its own, that reads, decides, and writes a while later."""

    rng: random.Random
    offset: float
    rate: float
    logs: dict[str, LeasedLog]
    clock: ServerClock = field(default_factory=ServerClock)
    #: What it has read, and what it will write of it.
    pending: tuple[bytes, int, list[object], dict[str, dict[int, int]]] | None = None
    is_dead: bool = False

    def local(self, now: float) -> float:
        return now * self.rate + self.offset

    def server(self, local: float) -> float:
        return (local - self.offset) / self.rate


def costs_of(rng: random.Random, limits: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {
        name: rng.choice([1, 1, 2, 0.5, most]) if most >= 2 else most * rng.random()
        for name, (most, _) in limits.items()
        if rng.random() < 0.9 or len(limits) == 1
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limits=st.lists(
        st.tuples(st.sampled_from([0.3, 1, 2.5, 5, 20]), st.sampled_from([0.05, 0.1, 0.2, 0.5])),
        min_size=1,
        max_size=2,
    ),
    count=st.integers(1, 5),
)
def test_no_window_holds_more_than_it_may(
    seed: int, limits: list[tuple[float, float]], count: int
) -> None:
    """With clocks that differ and run apart, conflicts, deaths, late starts and unused slots."""
    rng = random.Random(seed)
    rates = {f"limit{place}": rate for place, rate in enumerate(limits)}
    ledger = Ledger({name: SharedLimit(*rate) for name, rate in rates.items()}, born=1)
    bucket = Bucket(ledger.encode())
    machines = []
    for _ in range(count):
        machine = Machine(
            rng,
            offset=rng.uniform(-1e6, 1e6),
            rate=1 + rng.uniform(-0.9, 0.9) * ServerClock.DRIFT,
            logs={name: LeasedLog(*rate) for name, rate in rates.items()},
        )
        for log in machine.logs.values():
            log.server_time = machine.clock.at_most
        machines.append(machine)
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in rates}
    now = 1000.0
    for _ in range(rng.randrange(50, 300)):
        now += rng.choice([0.0, rng.expovariate(1000), rng.expovariate(200)])
        now += 0.0 if rng.random() < 0.97 else rng.expovariate(5)
        machine = rng.choice(machines)
        if machine.is_dead:
            continue
        if rng.random() < 0.003:
            machine.is_dead = True
            continue
        if machine.clock.doubt(machine.local(now)) > 0.005:
            took = rng.uniform(0.0001, 0.004)
            stamp = DAY + int((now + took * rng.random()) * UNITS)
            machine.clock.learn(machine.local(now), machine.local(now + took), stamp)
            now += took
        step(machine, bucket, rates, starts, now)
    for name, (most, per) in rates.items():
        # What the clock of the server is read in, and floats hold, is a millionth.
        assert most_in_any_window(starts[name], per - 2e-6) <= most + 1e-6


def step(
    machine: Machine,
    bucket: Bucket,
    rates: dict[str, tuple[float, float]],
    starts: dict[str, list[tuple[float, float]]],
    now: float,
) -> None:
    rng, clock, local = machine.rng, machine.clock, machine.local(now)
    if rng.random() < 0.5:
        while start_something(machine, rates, starts, now):
            pass
        return
    if machine.pending is not None:
        data, revision, slots, corrections = machine.pending
        machine.pending = None
        if not bucket.write(data, revision):
            return  # another one was faster
        for name, told in corrections.items():
            for end, more in told.items():
                machine.logs[name].corrections[end] -= more
        if rng.random() < 0.1:
            return  # the answer was lost: it has slots, and does not know of them
        for slot in slots:
            for name, counted in slot.costs.items():
                machine.logs[name].lease(
                    Lease(
                        clock.surely_since(local, slot.start),
                        clock.surely_until(local, slot.end),
                        slot.end,
                        counted,
                    )
                )
        return
    ledger = Ledger.decode(bucket.data)
    surely = clock.at_least(local)
    ledger.forget(surely)
    corrections = {name: dict(log.corrections) for name, log in machine.logs.items()}
    for name, told in corrections.items():
        for end, more in told.items():
            ledger.limits[name].correct(end, more, surely)
    wants = [
        {name: amount(cost) for name, cost in costs_of(rng, rates).items()}
        for _ in range(rng.randrange(6))
    ]
    validity = micros(rng.choice([0.005, 0.02]) + clock.doubt(local))
    slots = ledger.reserve(surely, wants, validity, before=surely + micros(rng.choice([0, 0.25])))
    machine.pending = (ledger.encode(), bucket.revision, slots, corrections)


def start_something(
    machine: Machine,
    rates: dict[str, tuple[float, float]],
    starts: dict[str, list[tuple[float, float]]],
    now: float,
) -> bool:
    rng, local = machine.rng, machine.local(now)
    wanted = costs_of(rng, rates)
    if not wanted:
        return False
    if any(machine.logs[name].free_at(local, cost) > local for name, cost in wanted.items()):
        return False
    records = {name: machine.logs[name].reserve(cost) for name, cost in wanted.items()}
    later = now + rng.choice([0.0, rng.expovariate(200)])
    local = machine.local(later)
    if rng.random() < 0.2 or any(
        machine.logs[name].is_late(record, local) for name, record in records.items()
    ):
        for name, record in records.items():
            machine.logs[name].cancel(record)
        return False
    for name, record in records.items():
        machine.logs[name].confirm(record, local)
        cost = wanted[name]
        if rng.random() < 0.2:  # it was cheaper than that
            cost *= rng.random()
            machine.logs[name].settle(record, cost)
        starts[name].append((later, cost))
    return True


# -- a shared limit -------------------------------------------------------------------------------


def shared(maximum: float = 2, per: float = 1, *counted: tuple[int, float]) -> SharedLimit:
    limit = SharedLimit(maximum, per)
    for end, cost in counted:
        limit.add(end, amount(cost))
    return limit


def test_there_is_room_when_enough_has_left_the_window() -> None:
    limit = shared(2, 1, (100, 1), (300, 1))
    assert limit.free_at(400, amount(1)) == 100 + UNITS
    assert limit.free_at(400, amount(2)) == 300 + UNITS
    assert limit.free_at(100 + UNITS, amount(1)) == 100 + UNITS


def test_what_is_to_start_later_counts_already() -> None:
    assert shared(1, 1, (900_000, 1)).free_at(0, amount(1)) == 900_000 + UNITS


def test_slots_are_given_in_order_and_not_far_ahead() -> None:
    ledger = Ledger({"a": shared(2, 1)}, born=1)
    one = {"a": amount(1)}
    slots = ledger.reserve(0, [one] * 5, 10, before=UNITS + 10)
    assert [slot.start for slot in slots] == [0, 0, UNITS + 10, UNITS + 10]


def test_limits_are_taken_together_or_not_at_all() -> None:
    ledger = Ledger({"a": shared(2, 1), "b": shared(1, 1, (0, 1))}, born=1)
    assert ledger.reserve(5, [{"a": amount(1), "b": amount(1)}], 10, before=100) == []
    assert ledger.limits["a"].free_at(5, amount(2)) == 5


def test_nothing_starts_before_the_gate_opens() -> None:
    ledger = Ledger({"a": shared()}, born=1, opens=500)
    assert ledger.reserve(0, [{"a": amount(1)}], 10, before=1000)[0].start == 500


def test_what_is_given_back_is_free_at_once() -> None:
    limit = shared(2, 1, (100, 2))
    limit.correct(100, -amount(1), now=200)
    assert limit.free_at(200, amount(1)) == 200


def test_what_has_left_the_window_is_not_corrected() -> None:
    limit = shared(2, 1, (100, 1), (UNITS, 2))
    limit.correct(100, -amount(1), now=UNITS + 200)
    assert limit.free_at(UNITS + 200, amount(1)) == 2 * UNITS


def test_what_is_charged_counts() -> None:
    limit = shared(2, 1)
    limit.correct(100, amount(2), now=200)
    assert limit.free_at(200, amount(1)) == 100 + UNITS


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(ROOM + 1, ROOM + 200))
def test_a_long_log_is_shortened_to_the_safe_side(seed: int, count: int) -> None:
    rng = random.Random(seed)
    ends = [rng.randrange(5 * UNITS) for _ in range(count)]
    exactly = shared(len(ends), 5)
    for end in ends:
        exactly.add(end, amount(1))
    short = SharedLimit.of_json(exactly.as_json())
    short.forget(5 * UNITS)
    assert len(short.as_json()["log"]) <= len(exactly.as_json()["log"])
    for cost in (1, len(ends) // 2, len(ends)):
        exact_time = exactly.free_at(5 * UNITS, amount(cost))
        assert exact_time <= short.free_at(5 * UNITS, amount(cost)) <= exact_time + 5 * UNITS / 200


def test_what_has_left_the_window_is_forgotten() -> None:
    limit = shared(2, 1, (100, 1), (UNITS, 1))
    limit.forget(100 + UNITS + GRACE + 1)
    assert limit.as_json()["log"] == [UNITS, amount(1)]


def test_a_clock_that_was_set_back_does_not_stop_everything() -> None:
    limit = shared(2, 1, (DAY, 1), (DAY + 5, 1))
    limit.forget(100)
    assert limit.free_at(100, amount(1)) == 100 + FAR + UNITS


def test_a_ledger_survives_its_way_through_the_bucket() -> None:
    ledger = Ledger({"a": shared(2.5, 1, (100, 0.5), (300, 1))}, born=7, opens=9)
    again = Ledger.decode(ledger.encode())
    assert again.encode() == ledger.encode()
    assert (again.born, again.opens, again.limits["a"].rate) == (7, 9, (2.5, 1))


def test_it_can_be_told_which_writes_were_made() -> None:
    ledger = Ledger({}, born=1)
    for number in range(3):
        ledger.sign(f"w{number}")
    again = Ledger.decode(ledger.encode())
    assert again.has("w1", 1)
    assert again.has("x", 1) is False
    for number in range(40):
        again.sign(f"v{number}")
    assert again.has("w1", 1) is None, "that is too long ago"
    assert again.has("v39", 42)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff", "this is not a ledger"),
        (b"[]", "this is not a ledger"),
        (b'{"format":1}', "this is not a ledger"),
        (b'{"format":2}', "has format 2, and this version reads 1"),
    ],
)
def test_what_is_no_ledger_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Ledger.decode(data)


def test_differences_name_both_sides() -> None:
    there = {"a": shared(100, 1), "b": shared(5, 2)}
    assert differences(there, {"a": (100, 1), "b": (5, 2)}) == []
    assert differences(there, {"a": (50, 1), "c": (1, 1)}) == [
        "'a' is 100 per 1 s there and 50 per 1 s here",
        "'b' is 5 per 2 s there and no such limit here",
        "'c' is no such limit there and 1 per 1 s here",
    ]


def test_a_rate_that_was_changed_since_is_no_difference() -> None:
    limit = shared(100, 1)
    limit.change(200, 1)
    assert differences({"a": limit}, {"a": (100, 1)}) == []
    assert differences({"a": limit}, {"a": (200, 1)}) == []
