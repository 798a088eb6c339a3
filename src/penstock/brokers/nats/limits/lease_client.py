"""Keeps a limiter in slots: takes them from the bucket that all machines share, ahead of need."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock._util.compat import timeout_after
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError, NoReplyError, NoRespondersError
from penstock.brokers.nats.limits.bucket import Key
from penstock.brokers.nats.limits.lease_request import Client, LeaseRequest
from penstock.brokers.nats.limits.leases import (
    Ledger,
    SharedLimit,
    Slot,
    differences,
    micros,
)
from penstock.brokers.nats.limits.server_clock import ServerClock
from penstock.errors import BrokerError

#: Seconds ahead of its start that a slot is taken at most, beside those that a request takes: what
#: a machine that dies had taken is lost for all.
AHEAD = 0.25
#: How long a slot is valid, as a part of the shortest ``per``, and at least and at most, in
#: seconds. The longer, the more of the rate is lost where it is not told when the starts were.
VALID, VALID_LEAST, VALID_MOST = 0.05, 0.02, 0.25
#: Seconds after which what was given back is told, if there is nothing else to tell; and if
#: somebody waits here.
TELL, TELL_SOON = 0.25, 0.05
#: The doubt about the server's clock with which one is content, and after how many seconds one
#: asks again all the same.
DOUBT, ASK_AGAIN = 0.003, 10.0
#: With more doubt than this, nothing is leased.
DOUBT_MOST = 0.4
#: Seconds without any use after which other limits may take the place of those in the bucket.
IDLE = 60.0
#: Seconds until it is tried again when NATS is away.
PAUSE_LEAST, PAUSE_MOST = 0.1, 2.0
#: Seconds for which a machine lets others join before it asks for all of them.
GATHER = 0.001

_rng = random.Random()  # noqa: S311 - it keeps machines from asking all at once


@dataclass(frozen=True)
class UnconfirmedWrite:
    """A write that was not answered."""

    name: str
    revision: int
    count: int
    request: LeaseRequest
    slots: Sequence[Slot]


class LeaseClient:
    """Talks to the bucket on behalf of a limiter, in an event loop of its own.

    ``client``: returns the limiter, as long as there is one.
    """

    def __init__(
        self,
        client: Callable[[], Client | None],
        name: str,
        connection: Callable[[], Connection],
        key: Callable[[Connection], Key],
        logger: logging.Logger,
    ) -> None:
        self._client = client
        self._name = name
        self._make_connection, self._make_key = connection, key
        self._logger = logger
        self._clock = ServerClock()
        self._clock_asked = -math.inf
        self._connection: Connection | None = None
        self._key: Key | None = None
        self._ledger: Ledger | None = None
        self._revision = 0
        #: Whether the bucket may hold something newer.
        self._is_stale = True
        #: What others have written, or tried to.
        self._others = 0
        self._born: int | None = None
        #: The rates that the ledger had when it was last seen.
        self._agreed: dict[str, tuple[float, float]] = {}
        self._opens = 0
        #: Writes of which it is not known whether they were made.
        self._unconfirmed: list[UnconfirmedWrite] = []
        #: When corrections are told at the latest.
        self._tell_at = math.inf
        #: Seconds that a request takes.
        self._trip = 0.001
        self._is_lost = False
        self._calls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._is_woken = self._is_stopped = False

    @property
    def calls(self) -> int:
        """Requests to the bucket so far."""
        return self._calls + (0 if self._key is None else self._key.calls)

    def wake(self) -> None:
        """There may be something to do. From any thread; cheap if it knows already."""
        if not self._is_woken and self._loop is not None:
            self._is_woken = True
            with suppress(RuntimeError):  # it was closed in this moment
                self._loop.call_soon_threadsafe(self._news.set)

    def stop(self) -> None:
        """Have :meth:`run` end soon. From any thread."""
        self._is_stopped = True
        self._is_woken = False
        self.wake()

    async def run(self) -> None:
        """Until it is stopped, or there is no limiter any more."""
        self._loop = asyncio.get_running_loop()
        pause = PAUSE_LEAST
        try:
            while True:
                self._is_woken = False
                self._news.clear()
                client = self._client()
                if client is None or self._is_stopped:
                    return
                try:
                    delay = await self._round(client)
                    pause = PAUSE_LEAST
                    self._found()
                except ValueError as error:
                    self._is_stale = True
                    client.refuse(error)
                    delay = math.inf
                except (NoReplyError, NoRespondersError, ApiError, BrokerError) as error:
                    self._lost(error)
                    delay = pause * _rng.uniform(0.5, 1)
                    pause = min(2 * pause, PAUSE_MOST)
                    await asyncio.sleep(0.05)  # whatever happens meanwhile
                except Exception:  # a mistake of ours must not leave anybody waiting in silence
                    self._logger.exception(
                        "The background task of the shared limits %s failed", self._name
                    )
                    await self._disconnect()
                    delay = PAUSE_MOST
                del client  # while nothing is to do it may be thrown away
                # Not wait_for, which swallows a cancellation now and then before Python 3.12.
                with suppress(TimeoutError):
                    async with timeout_after(min(delay, 3600.0)):
                        await self._news.wait()
                await asyncio.sleep(GATHER)
        finally:
            await self._disconnect()

    def _lost(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._logger.warning(
                "The shared limits %s do not answer, and calls wait until they do: %s",
                self._name,
                _reason(error),
            )

    def _found(self) -> None:
        if self._is_lost:
            self._is_lost = False
            self._logger.warning("The shared limits %s answer again", self._name)

    async def _connect(self) -> Key:
        if self._connection is not None and self._connection.is_closed:
            await self._disconnect()  # it was given up for good: begin anew
        if self._key is None:
            connection = self._make_connection()
            await connection.open()
            self._connection = connection
            try:
                key = self._make_key(connection)
                await key.make_bucket()
                await key.listen(self._heard)
            except BaseException:
                await self._disconnect()
                raise
            connection.on_reconnect = self._reconnected
            self._key = key
        elif self._is_lost:
            await self._key.make_bucket()  # it may be what was lost
        return self._key

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if self._key is not None:
            self._calls += self._key.calls
            self._key = None
        if connection is not None:
            await connection.close()

    def _reconnected(self) -> None:
        self._is_stale = True
        self._clock_asked = -math.inf  # it may be another server
        self.wake()

    def _heard(self, data: bytes) -> None:
        """Another machine writes, or tries to."""
        self._is_stale = True
        self._others += 1
        client = self._client()
        try:
            ledger = Ledger.decode(data)
        except ValueError:
            return  # whoever reads it will say so
        if client is None or self._ledger is None or ledger.born != self._born:
            return
        self._note_gate(client, ledger)
        self._ledger = ledger  # good enough to guess by
        self.wake()

    # -- one round --------------------------------------------------------------------------------

    async def _round(self, client: Client) -> float:
        """Do what there is to do; return in how many seconds there may be more."""
        key = await self._connect()
        conflicts = 0
        while True:
            now = time.monotonic()
            if now - self._clock_asked > ASK_AGAIN:
                await self._learn_time(key)
                continue
            request = client.request()
            if request.frees:
                self._tell_at = min(self._tell_at, now + (TELL_SOON if request.wants else TELL))
            must = bool(request.rates) or request.closed_until > now or now >= self._tell_at
            if not must:
                wake = self._guess(client, request, now) if request.wants else math.inf
                if wake > now:
                    return min(wake, self._tell_at, request.held_until) - now
            if self._is_stale:
                await self._read(client, key)
                continue  # by what is there now it may be too early to ask
            if await self._write(client, key, request):
                conflicts = 0
            else:
                conflicts += 1
                # Mostly it is another machine. A cluster says the same of what it cannot store
                # just now.
                await asyncio.sleep(_rng.uniform(0, 0.002 * 2 ** min(conflicts, 9)))

    def _guess(self, client: Client, request: LeaseRequest, now: float) -> float:
        """When it is worth asking for slots, on the local clock."""
        if self._ledger is None:
            return now
        start = self._ledger.free_at(self._earliest(request, now), request.wants[0])
        when = self._clock.surely_since(now, start)
        client.expect(when)
        return when - self._ahead()

    def _ahead(self) -> float:
        """Seconds ahead of its start that a slot is taken at most. It must be here by its start."""
        return AHEAD + self._trip

    def _earliest(self, request: LeaseRequest, now: float) -> int:
        """The first moment at which a slot can be used that is asked for now."""
        return self._clock.at_least(max(now + self._trip, request.not_before))

    async def _learn_time(self, key: Key) -> None:
        sent = time.monotonic()
        stamp = await key.ask_time()
        received = time.monotonic()
        self._clock.learn(sent, received, stamp)
        if self._clock.doubt(received) > DOUBT_MOST:
            raise NoReplyError("the server takes too long to answer")
        # Again before long if it was busy just now.
        is_good = self._clock.doubt(received) < max(DOUBT, 3 * self._trip)
        self._clock_asked = received if is_good else received - ASK_AGAIN + 1.0

    async def _read(self, client: Client, key: Key) -> None:
        others = self._others
        sent = time.monotonic()
        entry = await key.read()
        self._is_stale = others != self._others  # what was heard meanwhile may be newer
        self._took(time.monotonic() - sent)
        self._revision = entry.revision
        ledger = Ledger.decode(entry.data) if entry.data else None
        if ledger is not None and not self._is_ours(client, ledger, entry.stamp):
            ledger = None
        if ledger is None:
            ledger = self._new_ledger(client)
        elif ledger.born != self._born:
            client.start_anew()
            self._unconfirmed.clear()
        else:
            self._resolve(client, ledger)
        self._ledger, self._born = ledger, ledger.born
        self._note_gate(client, ledger)
        there = {name: limit.rate for name, limit in ledger.limits.items()}
        changed = {
            name: rate
            for name, rate in there.items()
            if rate != self._agreed.get(name, client.rates[name])
        }
        self._agreed = there
        if changed:
            client.adopt(changed)

    def _resolve(self, client: Client, ledger: Ledger) -> None:
        """Find out what became of writes that were not answered."""
        doubts, self._unconfirmed = self._unconfirmed, []
        for doubt in doubts:
            made = ledger.has(doubt.name, doubt.count)
            if made is False:
                if self._revision == doubt.revision:
                    self._unconfirmed.append(doubt)  # it may still come, if no other comes before
            else:
                client.told(doubt.request, certainly=made is True)
                if made:
                    client.unused(doubt.slots)

    def _is_ours(self, client: Client, ledger: Ledger, stamp: int) -> bool:
        """Whether it is about the same limits; ``ValueError`` if not, and it is in use."""
        if self._born == ledger.born and self._agreed.keys() == ledger.limits.keys():
            return True
        found = differences(ledger.limits, client.rates)
        if not found:
            return True
        longest = max([limit.per for limit in ledger.limits.values()], default=0.0)
        if self._clock.at_least(time.monotonic()) > stamp + micros(longest + IDLE):
            return False
        raise ValueError(
            f"The shared limits {self._name} are in use with other rates: {'; '.join(found)}. Give"
            " all machines the same limits, change them everywhere with Limit.change, or use "
            "another name"
        )

    def _new_ledger(self, client: Client) -> Ledger:
        limits = {name: SharedLimit(*rate) for name, rate in client.rates.items()}
        now = self._clock.at_most(time.monotonic())
        if self._born is not None:
            # It was lost: nobody knows what has started.
            client.start_anew()
            self._unconfirmed.clear()
            for limit in limits.values():
                limit.fill(now)
        return Ledger(limits, born=now)

    def _note_gate(self, client: Client, ledger: Ledger) -> None:
        if ledger.opens > self._opens:
            self._opens = ledger.opens
            client.close_until(self._clock.surely_since(time.monotonic(), ledger.opens))

    async def _write(self, client: Client, key: Key, request: LeaseRequest) -> bool:
        """Take slots, and tell what there is to tell; False if another machine was faster."""
        ledger = self._ledger
        assert ledger is not None
        now = time.monotonic()
        surely = self._clock.at_least(now)
        ledger.forget(surely)
        for name, corrections in request.corrections.items():
            for end, more in corrections.items():
                ledger.limits[name].correct(end, more, surely)
        for name, rate in request.rates.items():
            ledger.limits[name].change(*rate)
        if request.closed_until > now:
            ledger.opens = max(ledger.opens, self._clock.at_most(request.closed_until))
        slots = ledger.reserve(
            self._earliest(request, now),
            request.wants,
            micros(self._validity(client) + self._clock.doubt(now)),
            before=surely + micros(self._ahead()),
        )
        # Until it is known what became of this, nobody knows what there is.
        self._ledger, self._is_stale = None, True
        others = self._others
        name, count = f"{_rng.getrandbits(48):x}", ledger.count
        ledger.sign(name)
        try:
            revision = await key.write(ledger.encode(), self._revision)
        except BaseException:
            self._unconfirmed.append(UnconfirmedWrite(name, self._revision, count, request, slots))
            raise
        received = time.monotonic()
        self._took(received - now)
        if revision is None:
            return False
        # Of those that were to replace the same revision none other was made.
        self._unconfirmed = [
            doubt for doubt in self._unconfirmed if doubt.revision != self._revision
        ]
        self._is_stale = others != self._others
        self._ledger, self._revision = ledger, revision
        self._opens = max(self._opens, ledger.opens)
        self._agreed = {name: limit.rate for name, limit in ledger.limits.items()}
        self._tell_at = math.inf
        client.told(request, certainly=True)
        self._found()  # before those who waited go on: they may look at once whether it was told
        client.lease(slots, self._clock, received)
        return True

    @staticmethod
    def _validity(client: Client) -> float:
        shortest = min([per for _, per in client.rates.values()], default=1.0)
        return min(max(VALID * shortest, VALID_LEAST), VALID_MOST)

    def _took(self, seconds: float) -> None:
        self._trip += (seconds - self._trip) / 4


def _reason(error: Exception) -> str:
    if isinstance(error, NoRespondersError):
        return f"JetStream does not answer: {error}"
    if isinstance(error, ApiError):
        return f"{error} ({error.code})"
    return str(error)
