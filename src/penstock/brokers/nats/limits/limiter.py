"""A limiter that many machines share: one rate for all of them, agreed on in a NATS bucket."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from penstock._util import checks
from penstock._util.loop_thread import LoopFuture, LoopThread
from penstock.brokers.nats.connection.addresses import check_options, check_servers
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.limits.bucket import Key
from penstock.brokers.nats.limits.lease_client import LeaseClient
from penstock.brokers.nats.limits.lease_request import LeaseRequest
from penstock.brokers.nats.limits.leased_log import Lease, LeasedLog, uncovered
from penstock.brokers.nats.limits.leases import UNITS, Slot, amount
from penstock.brokers.nats.limits.server_clock import ServerClock
from penstock.limits.rate.budget import Budget
from penstock.limits.rate.gate import Gate
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter, UnusableLimiterError
from penstock.limits.rate.permit import Permit
from penstock.limits.rate.sliding_log import SlidingLog
from penstock.limits.rate.waiters import LoopWaiter, ThreadWaiter
from penstock.limits.rate.window import Demand, Waiter

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
#: Of so many waiters the wants are looked at in one go.
_MOST = 256
#: Seconds that closing may take.
_CLOSE = 5.0


class NatsLimiter(Limiter):
    """One rate for all machines: never more than ``max`` starts in any ``per`` seconds of all.

    Use it wherever you use a :class:`penstock.Limiter`; it has the same methods::

        limiter = NatsLimiter("nats://10.0.0.1:4222", [Limit(100, per=1)], name="openai")
        queue = WorkQueue(limits=limiter)

    Args:
        servers: URLs of NATS servers with JetStream, one or several.
        limits: the limits, or texts such as ``"500/min"``. A call takes from all of them at once,
            or waits and takes from none.
        name: which of the limits in the bucket these are: all who give this name share them.
            Letters, digits, ``_`` and ``-``.
        bucket: the key-value bucket that stores them; it is created if it does not exist.
        replicas, storage: the settings of a new bucket; storage is ``"file"`` or ``"memory"``.
        options: other arguments of ``nats.connect``: ``user``, ``password``, ``token``, ``tls``...
        rng: draws the gaps after a closure of the gate.
        logger: gets a line when NATS is down, and when it is back.

    Raises:
        TypeError, ValueError: for an argument that is not allowed; neither a limit with ``key`` nor
            a :class:`penstock.Budget` can be shared.

    A call that waits gets a *slot*, a time at which to start. Slots are taken from the bucket with
    compare-and-set, several at once, and at most a quarter of a second ahead. The slots of a
    machine that dies are not used. Times are those of the server's clock, which each machine
    estimates: the clocks of the machines may differ. (If the clocks of the servers of a cluster
    differ, this part of a window is uncertain when another server becomes the leader: use NTP.)

    On one machine it is first come, first served. Until its real time is known, a start counts as
    late as its slot allows: this costs up to a twentieth of ``per``, at least 0.02 and at most 0.25
    seconds of each window.

    While NATS cannot be reached, calls wait, so the rate is never exceeded. This is logged once,
    and calls continue when NATS is back. Closing the gate takes effect here at once, and on other
    machines as soon as they hear of it; so does a rate changed by :meth:`penstock.Limit.change`,
    which applies to all machines. If a machine has other rates than those in use, ``acquire``
    raises a ``ValueError`` that names both; a queue keeps its items until the rates agree, and logs
    why. Limits that were not used for a minute longer than ``per`` can be replaced. Costs are
    counted in millionths, rounded up.

    It connects at the first use, in its own thread. Call :meth:`close` at the end.
    """

    log_type: ClassVar[type[SlidingLog]] = LeasedLog
    #: What one machine started says little about what all of them did.
    learns = False

    def __init__(
        self,
        servers: str | Sequence[str],
        limits: Iterable[Limit | str],
        *,
        name: str,
        bucket: str = "penstock-limits",
        replicas: int = 1,
        storage: str = "file",
        options: Mapping[str, Any] | None = None,
        rng: random.Random | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        urls = check_servers(servers)
        checked = {**check_options(options), "no_echo": True}
        for value, what in ((name, "name"), (bucket, "bucket")):
            if not _NAME.fullmatch(checks.label(value, what)):
                raise ValueError(
                    f"{what} must be up to 200 of the letters A to Z, a to z, digits, _ and -,"
                    f" got {checks.shown(value)}"
                )
        replicas = checks.positive_int(replicas, "replicas", "replicas must be at least 1")
        if storage not in ("file", "memory"):
            raise ValueError(f"storage must be 'file' or 'memory', got {checks.shown(storage)}")
        checks.logger(logger)
        log = logging.getLogger("penstock") if logger is None else logger
        super().__init__(limits, name=name, rng=rng)
        if not self.limits:
            raise ValueError("limits must have at least one Limit, got none")
        for limit in self.limits:
            _check_sharable(limit)
        self.bucket = bucket
        #: Where something needs to be told to all: rates, and until when the gate is closed.
        self._new_rates: dict[str, tuple[float, float]] = {}
        self._new_closing = -math.inf
        #: What was asked for without waiting, and was not there.
        self._next_demand: Demand | None = None
        self._expected = -math.inf
        self._is_closed = False
        #: Why nobody can start, as it was told last.
        self._problem = ""
        self._logger = log
        me = weakref.ref(self)
        self._lease_client = LeaseClient(
            me,
            name,
            lambda: Connection(urls, checked, log),
            lambda connection: Key(connection, bucket, name, replicas, storage),
            log,
        )
        self._thread = LoopThread(name=f"penstock-limits-{name}")
        self._kept: LoopFuture[None] | None = None
        weakref.finalize(self, self._lease_client.stop)

    @property
    def calls(self) -> int:
        """Requests made to the bucket so far."""
        return self._lease_client.calls

    def close(self) -> None:
        """Disconnect. Calls that wait, and later calls, get a ``RuntimeError``."""
        with self._lock:
            self._is_closed = True
            self._dismiss(self._closed())
            kept = self._kept
        self._lease_client.stop()
        if kept is not None:
            kept.ends_within(_CLOSE)
        self._thread.close(_CLOSE)

    async def aclose(self) -> None:
        """As :meth:`close`, without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def try_acquire(
        self, item: Any = None, *, finishes: bool = False, gate_key: Hashable = None
    ) -> Permit | None:
        """As :meth:`acquire`, but ``None`` where that would wait. From any thread.

        It returns ``None`` unless there is a slot already. Then it fetches a slot, which can be
        used a moment later, for a short time.
        """
        permit = super().try_acquire(item, finishes=finishes, gate_key=gate_key)
        if permit is None:
            charges = None if self._fixed_demand is not None else self._charges(item)
            with self._lock:
                if self._is_closed:
                    raise self._closed()
                self._next_demand = self._demand_of(charges, self._now(None), gate_key)
                self._ask()
        return permit

    def wait_time(self, item: Any = None, *, gate_key: Hashable = None) -> float:
        """Seconds until :meth:`try_acquire` is worth a try, as far as is known here; 0: now."""
        wait = super().wait_time(item, gate_key=gate_key)
        if wait < math.inf:
            return wait
        with self._lock:
            return max(0.0, self._expected - self._now(None))

    def remaining(self, item: Any = None) -> dict[str, float]:
        """How much of each limit this machine may start now without asking, by its name."""
        return super().remaining(item)

    def utilization(self, item: Any = None) -> dict[str, float]:
        """Nothing: what all machines use of a shared limit is not known here."""
        return {}

    def close_for(self, seconds: float, *, key: Hashable = None) -> None:
        """As of any limiter, and for all machines: here at once, elsewhere in a moment.

        The gate of a ``key`` is that of this process alone.
        """
        super().close_for(seconds, key=key)

    # -- as a limiter -----------------------------------------------------------------------------

    def _now(self, running: asyncio.AbstractEventLoop | None) -> float:
        return time.monotonic()  # an event loop's own clock means nothing to the server

    def _rates_changed(self) -> None:
        super()._rates_changed()
        self._only_log = None  # it would look past the slots

    def _add_waiter(self, waiter: LoopWaiter | ThreadWaiter, gate_key: Hashable = None) -> None:
        if self._is_closed:
            raise self._closed()
        self._ask()
        super()._add_waiter(waiter, gate_key)

    def _was_closed(self, gate: Gate, key: Hashable, waiting: int, why: str) -> None:
        super()._was_closed(gate, key, waiting, why)
        if key is None:
            now = self._now(None)
            self._new_closing = max(self._new_closing, now + gate.closed_for(now))
            self._ask()

    def _dispatch(self, now: float, running: asyncio.AbstractEventLoop | None) -> None:
        super()._dispatch(now, running)
        if self._scheduler.waiting and any(log.lacks for log in self._logs().values()):
            self._lease_client.wake()

    def _change(self, limit: Limit, maximum: float, period: float) -> None:
        _check_max(limit.name, maximum)
        super()._change(limit, maximum, period)
        with self._lock:
            self._new_rates[limit.name] = (float(maximum), period)
            self._ask()

    def _settle(self, permit: Permit, limit: Limit, cost: Any) -> None:
        super()._settle(permit, limit, cost)
        self._lease_client.wake()

    def _ask(self) -> None:
        """There is something for the lease client to do."""
        if self._is_closed:
            return
        thread = self._thread
        thread.start()  # says so if it stayed behind in the parent of this process
        if self._kept is None:
            self._kept = thread.send(self._lease_client.run)
            self._kept.add_done_callback(lambda _: thread.close_nowait())
        self._lease_client.wake()

    def _closed(self) -> RuntimeError:
        return RuntimeError(f"the shared limiter {self.name!r} is closed")

    def _dismiss(self, error: Exception) -> None:
        for waiter in self._scheduler.reject_all(error):
            assert isinstance(waiter, (LoopWaiter, ThreadWaiter))
            waiter.wake(None)

    def _logs(self) -> dict[str, LeasedLog]:
        return {limit.name: _log_of(limit) for limit in self.limits}

    # -- for the lease client, in its thread ------------------------------------------------------

    @property
    def rates(self) -> Mapping[str, tuple[float, float]]:
        """``max`` and ``per`` of each limit, by their names."""
        return {limit.name: (float(limit.max), limit.per) for limit in self.limits}

    def request(self) -> LeaseRequest:
        """What is wanted now."""
        with self._lock:
            now = self._now(None)
            logs = self._logs()
            leases = {name: list(log.leases(now)) for name, log in logs.items()}
            frees = any(log.freed for log in logs.values())
            for log in logs.values():
                log.lacks = log.freed = False
            wants = uncovered(self._wanted(now), leases, now)
            held = [lease.until for some in leases.values() for lease in some]
            not_before = -math.inf
            if self._gate.is_active:  # one after the other, then
                wants, not_before = wants[:1], self._gate.opens_at
            return LeaseRequest(
                wants=wants,
                not_before=not_before,
                closed_until=self._new_closing,
                rates=dict(self._new_rates),
                corrections={name: dict(log.corrections) for name, log in logs.items()},
                frees=frees,
                held_until=max(held, default=math.inf),
            )

    def told(self, request: LeaseRequest, *, certainly: bool) -> None:
        """These corrections, closings and rates are in the bucket, or may be."""
        with self._lock:
            for name, log in self._logs().items():
                for end, more in request.corrections.get(name, {}).items():
                    # What may have been given back is not given back twice.
                    if certainly or more < 0:
                        rest = log.corrections.get(end, 0) - more
                        log.corrections[end] = rest
                        if not rest:
                            del log.corrections[end]
            if not certainly:
                return
            if self._new_closing <= request.closed_until:
                self._new_closing = -math.inf
            for name, rate in request.rates.items():
                if self._new_rates.get(name) == rate:
                    del self._new_rates[name]

    def lease(self, slots: Sequence[Slot], clock: ServerClock, now: float) -> None:
        """These are ours."""
        with self._lock:
            logs = self._logs()
            for slot in slots:
                start = clock.surely_since(now, slot.start)
                until = clock.surely_until(now, slot.end)
                for name, counted in slot.costs.items():
                    logs[name].lease(Lease(start, until, slot.end, counted))
            for log in logs.values():
                log.server_time = clock.at_most
            if slots:
                self._next_demand = None
                self._problem = ""
            self._look_again(now)

    def unused(self, slots: Sequence[Slot]) -> None:
        """These were taken for us, and nobody knew it: they are given back."""
        with self._lock:
            logs = self._logs()
            for slot in slots:
                for name, counted in slot.costs.items():
                    logs[name].give_up(slot.end, counted)

    def expect(self, when: float) -> None:
        """Nothing more can start before this local time, as far as one knows."""
        self._expected = when

    def close_until(self, when: float) -> None:
        """The gate was closed elsewhere, until this local time."""
        with self._lock:
            now = self._now(None)
            self._gate.close(now, when - now, self._scheduler.calls)
            super()._was_closed(
                self._gate, None, self._scheduler.calls, "another machine closed the gate"
            )
            self._dispatch(now, None)
        self._standstills.tell()

    def adopt(self, rates: Mapping[str, tuple[float, float]]) -> None:
        """Rates that were changed elsewhere."""
        for name, (maximum, period) in rates.items():
            if name not in self._new_rates:  # a change made here is newer
                super()._change(self._by_name[name], maximum, period)

    def start_anew(self) -> None:
        """The ledger is another one: what was leased from the old one counts no longer."""
        with self._lock:
            for log in self._logs().values():
                log.clear()
            self._look_again(self._now(None))

    def refuse(self, error: Exception) -> None:
        """Nobody who waits can start, as things are."""
        with self._lock:
            self._next_demand = None
            self._dismiss(UnusableLimiterError(str(error)))
            if self._problem != str(error):
                self._problem = str(error)
                self._logger.error("Shared limits: %s; no call can start until this ends", error)

    def _look_again(self, now: float) -> None:
        for limit in self.limits:
            for window in limit._state.windows():
                self._scheduler.recheck(window)
        self._dispatch(now, None)

    def _may_start(self, waiter: Waiter, now: float) -> bool:
        """Whether the gate of its key, if it has one, is open."""
        log = None if waiter.gate_key is None else self._gates.logs.get(waiter.gate_key)
        return log is None or log.gate.opens_at <= now

    def _wanted(self, now: float) -> list[dict[str, int]]:
        """What those need who wait, in their order, by the names of limits."""
        oldest = [each for each in self._scheduler.oldest(_MOST) if self._may_start(each, now)]
        each = (waiter.demand for waiter in oldest for _ in range(waiter.calls))
        waiting = list(islice(each, _MOST))
        if self._next_demand is not None:
            waiting.append(self._next_demand)
        return [
            {
                window.owner.name: amount(cost)
                for window, cost in demand
                if window.owner is not self._gates
            }
            for demand in waiting
        ]


def _check_sharable(limit: Limit) -> None:
    if isinstance(limit, Budget):
        raise ValueError(
            f"{checks.shown(limit.name)} is a Budget, and a NatsLimiter cannot share budgets: "
            "give each machine a budget of its own, in a Limiter"
        )
    if limit.key is not None:
        raise ValueError(
            f"the limit {checks.shown(limit.name)} has a key, and a NatsLimiter cannot share "
            "keys: make a NatsLimiter for each key, or give each machine a Limiter with keys"
        )
    _check_max(limit.name, limit.max)


def _check_max(name: str, maximum: float) -> None:
    if maximum < 1 / UNITS:
        raise ValueError(
            f"the max of a shared limit must be at least 0.000001, got {checks.shown(maximum)} "
            f"for {checks.shown(name)}"
        )


def _log_of(limit: Limit) -> LeasedLog:
    log = limit._state.window(None, -math.inf).log
    assert isinstance(log, LeasedLog)
    return log
