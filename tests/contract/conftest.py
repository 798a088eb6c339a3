"""The kinds of queue that the contract is held against.

A kind gives ``make(maxsize=..., timeout=...)``, by a context manager, and says what it cannot do.
To add one, write it and list it in ``KINDS``; the tests use nothing but what
``penstock.protocols.Queue`` names. A kind that needs real time, sockets or threads is listed with
``marks=pytest.mark.real_time``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from brokers.conftest import nats_program, nats_server
from brokers.memory import MemoryQueue
from contract.helpers import InOrder, MakeQueue
from contract.nats import nats_queues
from contract.sqlite import sqlite_queues
from contract.threads import blocking_queues
from penstock import BoundedQueue, WorkQueue
from penstock.protocols import Queue
from penstock.testing import VirtualTimeLoop

__all__ = ["nats_program", "nats_server"]  # fixtures

_items: list[pytest.Item] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _items[:] = [item]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio asks once for all kinds; which one it is shows when a loop is made."""
    return {"of its kind": _make_loop}


def _make_loop() -> asyncio.AbstractEventLoop:
    is_real = _items[0].get_closest_marker("real_time") is not None
    return asyncio.new_event_loop() if is_real else VirtualTimeLoop()


@dataclass(frozen=True)
class Kind:
    """A kind of queue."""

    factory: Callable[..., AbstractAsyncContextManager[MakeQueue]]
    #: Whether a call that waits can be cancelled: a thread that blocks cannot.
    calls_are_cancellable: bool = True
    #: Whether a worker function can be broken off: a plain one in a thread cannot.
    workers_are_cancellable: bool = True
    #: Whether workers call their functions in the order of the items; threads race to do so.
    is_in_order: bool = True
    #: Whether a stop has the workers process what waits; a broker keeps it for other machines.
    stop_drains: bool = True
    #: Whether there are calls that wait for nobody; a broker must be asked.
    has_calls_at_once: bool = True
    #: Whether ``factory`` needs the URL of a NATS server.
    needs_nats: bool = False


@asynccontextmanager
async def bounded_queues() -> AsyncIterator[MakeQueue]:
    yield BoundedQueue


@asynccontextmanager
async def broker_queues() -> AsyncIterator[MakeQueue]:
    yield MemoryQueue


@asynccontextmanager
async def work_queues() -> AsyncIterator[MakeQueue]:
    yield WorkQueue


#: penstock.sync.WorkQueue, where its workers are tasks in its event loop.
BLOCKING = Kind(
    partial(blocking_queues, plain=False),
    calls_are_cancellable=False,
)
#: The same, where they are threads.
BLOCKING_PLAIN = Kind(
    partial(blocking_queues, plain=True),
    calls_are_cancellable=False,
    workers_are_cancellable=False,
    is_in_order=False,
)

#: What queues on all brokers share, on one in memory.
IN_MEMORY = Kind(broker_queues, stop_drains=False, has_calls_at_once=False)
#: penstock.brokers.nats.NatsQueue, on a server of its own.
NATS = Kind(nats_queues, stop_drains=False, has_calls_at_once=False, needs_nats=True)

#: penstock.brokers.sqlite.SqliteQueue, each in a file of its own.
SQLITE = Kind(sqlite_queues, stop_drains=False, has_calls_at_once=False)

KINDS = [
    pytest.param(Kind(bounded_queues), id="BoundedQueue"),
    pytest.param(BLOCKING, id="sync.WorkQueue", marks=pytest.mark.real_time),
    pytest.param(BLOCKING_PLAIN, id="sync.WorkQueue-plain", marks=pytest.mark.real_time),
    pytest.param(IN_MEMORY, id="BrokerQueue"),
    pytest.param(NATS, id="NatsQueue", marks=pytest.mark.real_time),
    pytest.param(SQLITE, id="SqliteQueue", marks=pytest.mark.real_time),
]

#: Those whose items keep to limits, retries, deadlines and the like, each by the queue itself.
WORK_QUEUES = [
    pytest.param(Kind(work_queues), id="WorkQueue"),
    pytest.param(BLOCKING, id="sync.WorkQueue", marks=pytest.mark.real_time),
    pytest.param(BLOCKING_PLAIN, id="sync.WorkQueue-plain", marks=pytest.mark.real_time),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
async def make_queue(kind: Kind, request: pytest.FixtureRequest) -> AsyncIterator[MakeQueue]:
    """Makes queues, and stops them at the end."""
    made: list[Queue[Any]] = []

    def make(*, maxsize: int = 100, timeout: float = 0.1, **rules: Any) -> Any:
        queue = factory(maxsize=maxsize, timeout=timeout, **rules)
        made.append(queue)
        return queue

    needs = [request.getfixturevalue("nats_server").url] if kind.needs_nats else []
    async with kind.factory(*needs) as factory:
        yield make
        for queue in made:
            await queue.stop(timeout=0, drain=False)


@pytest.fixture
def cancellable_calls(kind: Kind) -> None:
    """For tests that cancel a put, a get, a join, a start or a stop."""
    if not kind.calls_are_cancellable:
        pytest.skip("a call that blocks a thread cannot be cancelled")


@pytest.fixture
def cancellable_workers(kind: Kind) -> None:
    """For tests that rely on it that a worker function does not go on after its cancellation."""
    if not kind.workers_are_cancellable:
        pytest.skip("a plain function in a thread cannot be broken off")


@pytest.fixture
def drains(kind: Kind) -> None:
    """For tests of a stop that has everything processed that was accepted."""
    if not kind.stop_drains:
        pytest.skip("what waits is left to other machines")


@pytest.fixture
def calls_at_once(kind: Kind) -> None:
    """For tests of put_nowait and get_nowait."""
    if not kind.has_calls_at_once:
        pytest.skip("a call that does not wait cannot ask a broker")


@pytest.fixture
def in_order(kind: Kind) -> InOrder:
    """See there."""
    return list if kind.is_in_order else sorted
