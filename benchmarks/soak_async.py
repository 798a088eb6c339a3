"""The soak's load on the asynchronous face."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httpx

from benchmarks.soak_ledger import Counts, Item, Ledger, Stopwatch
from penstock import WorkQueue
from penstock.limits import AdaptiveConcurrency, Backoff, CircuitBreaker, Limit, RetryPolicy
from penstock.telemetry import Telemetry

#: Items a second that producers offer to the service, and to the steady queue.
SERVICE_PACE, STEADY_PACE = 30.0, 120.0
#: What the service takes in a second; the queue is told more, and so hears 429.
ALLOWED, TOLD = 50, 60


class AsyncSide:
    """A queue before a service, one with little to do, and ever new ones; in the running loop."""

    def __init__(self, telemetry: Telemetry, http: httpx.AsyncClient) -> None:
        self.telemetry = telemetry
        self.http = http
        self.puts, self.trips = Stopwatch(), Stopwatch()
        self.service_puts, self.service_trips = Stopwatch(), Stopwatch()
        self.is_over = asyncio.Event()
        self.service_books = Ledger("service", self.service_puts, self.service_trips)
        self.steady_books = self._books("steady")
        self.brief_books = Counts()
        self.wrong: list[str] = []
        self.service = WorkQueue[Item](
            100,
            0.05,
            8,
            name="service",
            limits=[Limit(TOLD, per=1.0)],
            retry=RetryPolicy(attempts=4, backoff=Backoff(0.1, max=1.0)),
            breaker=CircuitBreaker(open_for=1.0),
            max_dead_letters=100,
            telemetry=telemetry,
        )
        self.steady = WorkQueue[Item](50, 0.02, 4, name="steady", telemetry=telemetry)
        self._quiet = asyncio.Lock()  # held by who needs the steady queue to run
        self._jobs: list[int] = []
        self._is_out = False

    def _books(self, name: str) -> Ledger:
        return Ledger(name, self.puts, self.trips)

    @property
    def books(self) -> tuple[Ledger, Ledger]:
        """Of the queues that stay."""
        return self.service_books, self.steady_books

    @property
    def sizes(self) -> dict[str, int]:
        return {"service": self.service.size, "steady": self.steady.size}

    @property
    def ended(self) -> int:
        every = (*self.books, self.brief_books)
        return sum(one.ended for one in every)

    async def run(self) -> None:
        """Go on until ``is_over``; then stop, and compare all books."""
        for errors in (0.03, 1.0):  # as it should be, and out of order
            job = {"calls": ALLOWED, "at_once": 16, "latency": 0.03, "errors": errors}
            self._jobs.append((await self.http.post("/jobs", json=job)).json()["job"])
        await self.service.process(self._call, error_handler=self.service_books.handle)
        await self._process_steady()
        await asyncio.gather(
            *[self._forever(SERVICE_PACE / 2, self._offer_service) for _ in range(2)],
            *[self._forever(STEADY_PACE / 3, self._offer_steady) for _ in range(3)],
            self._forever(1 / 15, self._burst_service),
            self._forever(1 / 40, self._outage),
            self._forever(1 / 3, self._burst_steady),
            self._forever(1 / 4, self._map_steady),
            self._forever(1 / 10, self._cycle_steady),
            self._forever(3.0, self._brief),
        )
        await self._end()

    async def _forever(self, pace: float, action: Callable[[], Awaitable[None]]) -> None:
        """Do it so many times a second, at random."""
        while not self.is_over.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.is_over.wait(), random.uniform(0, 2 / pace))
                return
            await action()

    async def _end(self) -> None:
        if not await self.service.stop():
            self.service_books.complain("a stop that drains left something")
        for _ in range(20):  # so that there is something left
            with self.steady_books.offering() as offer:
                offer.accepted = await self.steady.put(offer.item, timeout=0)
        await self.steady.stop(drain=False)
        self.service_books.close(self.service, keeps=100)
        self.steady_books.close(self.steady)

    # -- before a service ---------------------------------------------------------------------

    async def _call(self, item: Item) -> None:
        path = f"/jobs/{self._jobs[self._is_out]}/items/{item.number}"
        response = await self.http.post(path)
        self.service.limits.observe(response.headers)
        response.raise_for_status()
        self.service_books.end(item)

    async def _offer_service(self) -> None:
        with self.service_books.offering() as offer:
            if random.random() < 0.2:
                future = await self.service.submit(offer.item)
                self.service_books.follow(offer.item, future)
            else:
                offer.accepted = await self.service.put(offer.item)

    async def _burst_service(self) -> None:
        for _ in range(120):
            with self.service_books.offering() as offer:
                offer.accepted = await self.service.put(offer.item, timeout=0)

    async def _outage(self) -> None:
        self._is_out = True
        await asyncio.sleep(2)
        self._is_out = False

    # -- little to do -------------------------------------------------------------------------

    async def _process_steady(self) -> None:
        work = partial(self._work, self.steady_books)
        await self.steady.process(work, error_handler=self.steady_books.handle)

    async def _work(self, books: Ledger, item: Item) -> None:
        await asyncio.sleep(0.002)
        item.attempt()
        books.end(item)

    async def _offer_steady(self) -> None:
        fails = random.random() < 0.05
        with self.steady_books.offering(fails) as offer:
            if random.random() < 0.3:
                future = await self.steady.submit(offer.item)
                self.steady_books.follow(offer.item, future)
            else:
                offer.accepted = await self.steady.put(offer.item)

    async def _burst_steady(self) -> None:
        """More than there is room for, and puts that wait and are cancelled."""
        for _ in range(80):
            with self.steady_books.offering() as offer:
                offer.accepted = await self.steady.put(offer.item, timeout=0)
        puts = [asyncio.create_task(self._wait_for_room()) for _ in range(15)]
        await asyncio.sleep(random.choice((0, 0.001, 0.005)))
        for put in puts[::2]:
            put.cancel()
        await asyncio.wait(puts)

    async def _wait_for_room(self) -> None:
        with self.steady_books.offering() as offer:
            offer.accepted = await self.steady.put(offer.item, timeout=float("inf"))

    async def _map_steady(self) -> None:
        async with self._quiet:
            numbers = range(60)
            results = self.steady.map(_double, self.steady_books.read(numbers), ordered=False)
            if sorted([result async for result in results]) != [2 * number for number in numbers]:
                self.steady_books.complain("map gave other results")

    async def _cycle_steady(self) -> None:
        """Stop in the midst of it, and go on."""
        async with self._quiet:
            await self.steady.stop(random.choice((None, 0)), drain=random.random() < 0.5)
            await self._process_steady()

    # -- ever new queues ----------------------------------------------------------------------

    async def _brief(self) -> None:
        """Make a queue, use it, stop it twice, throw it away."""
        books = self._books("brief")
        retry = random.choice((None, _brief_retry()))
        queue = WorkQueue[Item](
            random.choice((1, 5, 20)),
            0.01,
            random.choice((1, 3, AdaptiveConcurrency(1, 4))),
            name="brief-async",
            limits=random.choice(([], [Limit(200, per=0.5)])),
            retry=retry,
            telemetry=self.telemetry,
        )
        work: Any = partial(self._work, books)
        await queue.process(work, error_handler=books.handle)
        for _ in range(20):
            with books.offering(random.choice((0, 0, 1, 9))) as offer:
                if random.random() < 0.3:
                    books.follow(offer.item, await queue.submit(offer.item))
                else:
                    offer.accepted = await queue.put(offer.item)
        if not await queue.stop(random.choice((None, 0)), drain=random.random() < 0.5):
            await queue.process(work, error_handler=books.handle)
            await queue.join()
            await queue.stop()
        books.close(queue, keeps=0 if retry is None else 100)
        self.brief_books.add(books)
        self.wrong += books.wrong


def _brief_retry() -> RetryPolicy:
    return RetryPolicy(attempts=2, backoff=Backoff(0.001, max=0.01))


async def _double(item: Item) -> int:
    await asyncio.sleep(0)
    return 2 * item.number
