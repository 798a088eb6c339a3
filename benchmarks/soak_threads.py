"""The soak's load on the blocking face."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.soak_ledger import Counts, Item, Ledger, Stopwatch
from penstock.limits import Backoff, Limit, RetryPolicy
from penstock.sync import LoopThread, WorkQueue
from penstock.telemetry import Telemetry

#: Items a second that the producers of each of the two queues offer, all together.
PACE = 100.0
PRODUCERS = 4
#: Seconds that a thread may take to end.
LIMIT = 60.0


class ThreadSide:
    """A queue with plain workers, one with async workers, and ever new ones."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.puts, self.trips = Stopwatch(), Stopwatch()
        self.is_over = threading.Event()
        self.wrong: list[str] = []
        self.brief_books = Counts()
        self.loop_thread = LoopThread(name="soak-loop")
        self.plain_books, self.async_books = self._books("plain"), self._books("async")
        self.plain = WorkQueue[Item](
            50,
            0.05,
            4,
            name="threads-plain",
            limits=[Limit(400, per=1.0)],
            retry=RetryPolicy(attempts=3, backoff=Backoff(0.005, max=0.05), budget=None),
            max_dead_letters=100,
            telemetry=telemetry,
            loop_thread=self.loop_thread,
        )
        self.asynchronous = WorkQueue[Item](
            50, 0.05, 4, name="threads-async", telemetry=telemetry, loop_thread=self.loop_thread
        )
        self._quiet = threading.Lock()  # held by who needs the plain queue to run
        self._threads: list[threading.Thread] = []

    def _books(self, name: str) -> Ledger:
        return Ledger(f"threads, {name}", self.puts, self.trips)

    @property
    def books(self) -> tuple[Ledger, Ledger]:
        """Of the queues that stay."""
        return self.plain_books, self.async_books

    @property
    def sizes(self) -> dict[str, int]:
        return {"threads, plain": self.plain.size, "threads, async": self.asynchronous.size}

    @property
    def ended(self) -> int:
        every = (*self.books, self.brief_books)
        return sum(one.ended for one in every)

    @property
    def tasks(self) -> int:
        """How many tasks there are in the event loop of the two queues."""
        loop = self.loop_thread.loop
        return 0 if loop is None else len(asyncio.all_tasks(loop))

    def start(self) -> None:
        """Start all threads."""
        self._process_plain()
        self.asynchronous.process(self._async_work, error_handler=self.async_books.handle)
        actions: list[tuple[float, Callable[[], None]]] = [
            *[(PACE / PRODUCERS, self._offer_plain)] * PRODUCERS,
            *[(PACE / PRODUCERS, self._offer_async)] * PRODUCERS,
            (1 / 4, self._burst),
            (1 / 4, self._map),
            (1 / 10, self._cycle),
            (2.0, self._brief),
        ]
        for pace, action in actions:
            thread = threading.Thread(target=self._forever, args=(pace, action), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _forever(self, pace: float, action: Callable[[], None]) -> None:
        while not self.is_over.wait(random.uniform(0, 2 / pace)):
            self._try(action)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.wrong.append(f"threads: {action.__name__} raised {error!r}")

    def end(self) -> None:
        """Stop all, and compare all books."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(LIMIT)
            if thread.is_alive():
                self.wrong.append(f"threads: {thread.name} hangs")
        if not self.asynchronous.stop(LIMIT):
            self.async_books.complain("a stop that drains left something")
        self._burst()  # so that there is something left
        self.plain.stop(LIMIT, drain=False)
        self.plain_books.close(self.plain, keeps=100)
        self.async_books.close(self.asynchronous)
        self.loop_thread.close(LIMIT)

    # -- two that stay ------------------------------------------------------------------------

    def _process_plain(self) -> None:
        self.plain.process(self._plain_work, error_handler=self.plain_books.handle)

    def _plain_work(self, item: Item) -> None:
        _work(self.plain_books, item)

    async def _async_work(self, item: Item) -> None:
        await asyncio.sleep(0.002)
        item.attempt()
        self.async_books.end(item)

    def _offer_plain(self) -> None:
        _offer(self.plain_books, self.plain)

    def _offer_async(self) -> None:
        _offer(self.async_books, self.asynchronous)

    def _burst(self) -> None:
        """More than there is room for."""
        for _ in range(80):
            with self.plain_books.offering() as offer:
                offer.accepted = self.plain.put(offer.item, timeout=0)

    def _map(self) -> None:
        with self._quiet:
            numbers = range(60)
            results = self.plain.map(_double, self.plain_books.read(numbers), ordered=False)
            if sorted(results) != [2 * number for number in numbers]:
                self.plain_books.complain("map gave other results")

    def _cycle(self) -> None:
        """Stop in the midst of it, and go on."""
        with self._quiet:
            self.plain.stop(drain=random.random() < 0.5)
            self._process_plain()

    # -- ever new queues ----------------------------------------------------------------------

    def _brief(self) -> None:
        """Make a queue with a loop thread of its own, use it, and throw it away."""
        books = self._books("brief")
        retry = random.choice((None, RetryPolicy(attempts=2, backoff=Backoff(0.001, max=0.01))))
        queue = WorkQueue[Item](
            random.choice((1, 5, 20)),
            0.01,
            random.choice((1, 3)),
            name="brief-threads",
            limits=random.choice(([], [Limit(200, per=0.5)])),
            retry=retry,
            telemetry=self.telemetry,
        )

        async def work(item: Item) -> None:
            await asyncio.sleep(0.001)
            item.attempt()
            books.end(item)

        func: Any = random.choice((work, lambda item: _work(books, item)))
        queue.process(func, error_handler=books.handle)
        for _ in range(20):
            _offer(books, queue, random.choice((0, 0, 1, 9)))
        if not queue.stop(None, drain=random.random() < 0.5):
            queue.process(func, error_handler=books.handle)
            if not queue.join(LIMIT):
                books.complain("a join that hangs")
            queue.stop(LIMIT)
        books.close(queue, keeps=0 if retry is None else 100)
        self.brief_books.add(books)
        self.wrong += books.wrong
        if random.random() < 0.1:
            self._forget_one()

    def _forget_one(self) -> None:
        """Let go of a queue that was not stopped."""
        queue = WorkQueue[int](5, telemetry=self.telemetry, name="brief-threads")
        queue.process(str)
        queue.put(1)
        del queue
        gc.collect(0)


def _offer(books: Ledger, queue: WorkQueue[Item], fails: int | None = None) -> None:
    fails = random.choices((0, 1, 9), (95, 4, 1))[0] if fails is None else fails
    with books.offering(fails) as offer:
        if random.random() < 0.3:
            future = queue.submit(offer.item)
            books.follow(offer.item, future)
            if random.random() < 0.1:
                future.cancel()
        else:
            offer.accepted = queue.put(offer.item)


def _work(books: Ledger, item: Item) -> None:
    time.sleep(0.002)
    item.attempt()
    books.end(item)


def _double(item: Item) -> int:
    return 2 * item.number
