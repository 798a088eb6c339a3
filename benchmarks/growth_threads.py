"""Many threads: the series of ``growth.py`` for the blocking face."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.growth_series import Meter, Series, tens
from benchmarks.queue_clients import do_nothing, plain
from penstock.sync import WorkQueue

#: Items for each producer, worker and queue; and seconds that a thread may take to come.
EACH, LIMIT = 200, 60.0


def producers(work: Any, n: int, meter: Meter) -> None:
    with WorkQueue[int](100, math.inf, 10) as queue:
        queue.process(work)
        barrier = threading.Barrier(n + 1)

        def produce() -> None:
            barrier.wait(LIMIT)
            for item in range(EACH):
                queue.put(item)

        threads = [threading.Thread(target=produce, daemon=True) for _ in range(n)]
        for thread in threads:
            thread.start()
        with meter:
            barrier.wait(LIMIT)
            for thread in threads:
                thread.join()
            queue.join()


def worker_threads(n: int, meter: Meter) -> None:
    with meter, WorkQueue[int](100, math.inf, n) as queue:
        queue.process(plain)
        for item in range(EACH * n):
            queue.put(item)
        queue.join()


def idle_worker_threads(n: int, meter: Meter) -> None:
    with WorkQueue[int](100, math.inf, n) as queue, meter:
        queue.process(plain)


def queues(n: int, meter: Meter) -> None:
    with meter, ExitStack() as stack:
        made = [stack.enter_context(WorkQueue[int]()) for _ in range(n)]
        for queue in made:
            queue.process(do_nothing)
        for queue in made:
            for item in range(EACH):
                queue.put(item, math.inf)
        for queue in made:
            queue.join()


def idle_queues(n: int, meter: Meter) -> None:
    with ExitStack() as stack, meter:
        for _ in range(n):
            stack.enter_context(WorkQueue[int]()).process(do_nothing)


def read_ahead(n: int, meter: Meter) -> None:
    with WorkQueue[int](n, concurrency_limit=10) as queue, meter:
        assert sum(1 for _ in queue.map(plain, range(n), ordered=False)) == n


def wait_and_go(n: int, meter: Meter) -> None:
    with WorkQueue[int](n, math.inf, 10) as queue, meter:
        for item in range(n):
            queue.put(item)
        queue.process(do_nothing)
        queue.join()


PRODUCERS = (1, 8, 64)
THREADS = [
    Series("threads that put, async workers", PRODUCERS, partial(producers, do_nothing)),
    Series("threads that put, plain workers", PRODUCERS, partial(producers, plain)),
    Series("threads that work", PRODUCERS, worker_threads, idle_worker_threads),
    Series("queues with a thread of their own", tens(0, 2), queues, idle_queues),
    Series("items that a thread put, and that wait", tens(1, 5), wait_and_go),
    Series("results that a thread's map has ready", tens(1, 5), read_ahead),
]
