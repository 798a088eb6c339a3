"""The kinds of queue that the contract is held against.

A kind is a context manager that gives ``make(maxsize=..., timeout=...)``. To add one, write it
and list it in ``KINDS``; the tests use nothing but what ``penstock.protocols.Queue`` names. A kind
that needs real time, sockets or threads is listed with ``marks=pytest.mark.real_time``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from contract.helpers import MakeQueue
from penstock import BoundedQueue
from penstock.protocols import Queue


@contextmanager
def bounded_queues() -> Iterator[MakeQueue]:
    yield BoundedQueue


KINDS = [pytest.param(bounded_queues, id="BoundedQueue")]


@pytest.fixture(params=KINDS)
async def make_queue(request: pytest.FixtureRequest) -> AsyncIterator[MakeQueue]:
    """Makes queues, and stops them at the end."""
    kind: Callable[[], AbstractContextManager[MakeQueue]] = request.param
    made: list[Queue[Any]] = []

    def make(*, maxsize: int = 100, timeout: float = 0.1) -> Queue[Any]:
        queue = factory(maxsize=maxsize, timeout=timeout)
        made.append(queue)
        return queue

    with kind() as factory:
        yield make
        for queue in made:
            await queue.stop(timeout=0, drain=False)
