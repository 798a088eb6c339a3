"""Bad arguments: refused at the call, by an error that names the value and what is allowed.

And then nothing has happened: nothing is started, nothing has changed.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import math
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from unittest.mock import AsyncMock

import pytest

from penstock import (
    AsyncExecutor,
    BoundedQueue,
    Event,
    Executor,
    QueueStatus,
    WorkQueue,
)


async def worker(item: Any) -> None:
    pass


class Case(NamedTuple):
    """A bad value, the error that it gets, and what that says, if not the argument's name."""

    value: Any
    error: type[Exception]
    says: str | None = None


def ids(value: Any) -> str:
    if isinstance(value, list):
        return ""
    return getattr(value, "__name__", None) or str(value).partition(" at 0x")[0]


NO_INT: list[Case] = [
    Case(True, TypeError),
    Case(False, TypeError),
    Case(1.0, TypeError),
    Case(math.nan, TypeError),
    Case(math.inf, TypeError),
    Case("1", TypeError),
    Case([1], TypeError),
    Case(1j, TypeError),
]
TOO_SMALL = [Case(value, ValueError, "must be at least 1") for value in (0, -1, -(10**30))]
TOO_LARGE = [
    Case(value, ValueError, "must be at most 9223372036854775807") for value in (2**63, 10**30)
]
NO_SECONDS = [
    Case(-1, ValueError),
    Case(-0.001, ValueError),
    Case(math.nan, ValueError),
    Case(-math.inf, ValueError),
    Case(True, ValueError),
    Case(False, ValueError),
    Case("1", ValueError),
    Case(1j, ValueError),
    Case([], ValueError),
    Case(Decimal(1), ValueError),
]


def no_parameters() -> None:
    pass


def one_parameter(exc: Any) -> None:
    pass


def two_parameters(item: Any, other: Any) -> None:
    pass


def three_parameters(exc: Any, item: Any, other: Any) -> None:
    pass


def keyword_only(*, item: Any) -> None:
    pass


def generator(item: Any, other: Any = None) -> Iterator[None]:
    yield


async def async_generator(item: Any, other: Any = None) -> AsyncIterator[None]:
    yield


class TakesNothing:
    async def __call__(self) -> None:
        pass


class Generates:
    def __call__(self, item: Any) -> Iterator[None]:
        yield


NO_FUNCTION = [Case(value, TypeError) for value in (3, "worker", [], object())]
NO_WORKER = [
    *NO_FUNCTION,
    *(
        Case(value, TypeError)
        for value in (
            no_parameters,
            two_parameters,
            keyword_only,
            generator,
            async_generator,
            functools.partial(worker, 1),
            functools.partial(generator),
            TakesNothing(),
        )
    ),
]
NO_HANDLER = [
    *NO_FUNCTION,
    *(
        Case(value, TypeError)
        for value in (
            no_parameters,
            one_parameter,
            three_parameters,
            keyword_only,
            generator,
            async_generator,
            functools.partial(two_parameters, 1),
        )
    ),
]
NO_ITEMS = [Case(value, TypeError) for value in (None, 3, object(), generator, async_generator)]
NO_TEXT = [Case(3, TypeError), Case(b"name", TypeError), Case([], TypeError), Case("", ValueError)]
NO_LOGGER = [Case("penstock", TypeError), Case(3, TypeError), Case(logging, TypeError)]


def assert_names(error: BaseException, case: Case, name: str) -> None:
    """The message must say which argument it is, what it got and, in some words, what it wants."""
    message = str(error)
    value = case.value
    shown = value if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    assert (case.says or name) in message
    assert f"got {shown}" in message or f"got the generator {shown}" in message


# -- making things --------------------------------------------------------------------------------

MAKING: list[tuple[Callable[..., Any], str, list[Case]]] = [
    (BoundedQueue, "maxsize", [*NO_INT, *TOO_SMALL, *TOO_LARGE, Case(None, TypeError)]),
    (BoundedQueue, "timeout", [*NO_SECONDS, Case(None, ValueError)]),
    (BoundedQueue, "logger", NO_LOGGER),
    (BoundedQueue, "name", NO_TEXT),
    (BoundedQueue, "telemetry", [Case("on", TypeError), Case(True, TypeError)]),
    (WorkQueue, "maxsize", [*NO_INT, *TOO_SMALL, *TOO_LARGE, Case(None, TypeError)]),
    (WorkQueue, "timeout", [*NO_SECONDS, Case(None, ValueError)]),
    (WorkQueue, "concurrency_limit", NO_INT + TOO_SMALL),
    (WorkQueue, "logger", NO_LOGGER),
    (WorkQueue, "name", NO_TEXT),
    (WorkQueue, "queue", [Case("queue", TypeError), Case(asyncio.Queue(), TypeError)]),
    (WorkQueue.from_config, "config", [Case(v, TypeError) for v in (None, {}, "x", 5)]),
    (AsyncExecutor, "max_concurrency", NO_INT + TOO_SMALL),
    (functools.partial(Executor, Event), "logger", NO_LOGGER),
    (functools.partial(Executor, Event), "name", NO_TEXT),
]


@pytest.mark.parametrize(("make", "name", "cases"), MAKING, ids=ids)
def test_nothing_is_made_of_a_bad_argument(make: Any, name: str, cases: list[Case]) -> None:
    for case in cases:
        with pytest.raises(case.error) as caught:
            make(**{name: case.value})
        assert_names(caught.value, case, name)


def test_the_class_of_a_queue_is_no_queue() -> None:
    with pytest.raises(TypeError, match="queue"):
        WorkQueue(queue=BoundedQueue)  # type: ignore[arg-type]


@pytest.mark.parametrize("maxsize", [1, sys.maxsize])
def test_any_whole_number_from_one_on_is_a_size(maxsize: int) -> None:
    assert BoundedQueue(maxsize).maxsize == maxsize


def test_what_counts_as_a_whole_number_elsewhere_counts_here() -> None:
    class Index:
        def __index__(self) -> int:
            return 7

    maxsize = BoundedQueue(Index()).maxsize  # type: ignore[arg-type]
    assert (maxsize, type(maxsize)) == (7, int)


@pytest.mark.parametrize("timeout", [0, 0.0, 1, 2.5, Fraction(1, 2), math.inf])
def test_any_real_number_from_zero_on_is_a_timeout(timeout: Any) -> None:
    assert BoundedQueue(timeout=timeout).timeout == timeout


def test_a_value_that_cannot_be_shown_is_refused_like_any_other() -> None:
    class Unbound:
        """As a proxy without its object: whatever it is asked for raises."""

        @property
        def __class__(self) -> Any:
            raise RuntimeError

        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(TypeError, match="maxsize must be an int, got <a Unbound that has no repr>"):
        BoundedQueue(Unbound())  # type: ignore[arg-type]


def test_anything_that_logs_is_a_logger() -> None:
    adapter = logging.LoggerAdapter(logging.getLogger("mine"), {})
    assert BoundedQueue(logger=adapter).logger is adapter  # type: ignore[arg-type]


# -- calling things -------------------------------------------------------------------------------

Call = Callable[[WorkQueue[Any], Any], Awaitable[Any] | Any]


async def use_processing(queue: WorkQueue[Any], timeout: Any) -> None:
    async with queue.queue.processing(timeout):
        pass


CALLS: list[tuple[str, str, Call, list[Case]]] = [
    ("put", "timeout", lambda q, bad: q.put(1, timeout=bad), NO_SECONDS),
    ("submit", "timeout", lambda q, bad: q.submit(1, timeout=bad), NO_SECONDS),
    ("get", "timeout", lambda q, bad: q.get(timeout=bad), NO_SECONDS),
    ("processing", "timeout", use_processing, NO_SECONDS),
    ("stop", "timeout", lambda q, bad: q.stop(timeout=bad), NO_SECONDS),
    ("stop_workers", "timeout", lambda q, bad: q.queue.stop_workers(timeout=bad), NO_SECONDS),
    (
        "start_workers",
        "worker_func",
        lambda q, bad: q.queue.start_workers(bad, 1),
        [*NO_WORKER, Case(None, TypeError)],
    ),
    (
        "start_workers",
        "num_workers",
        lambda q, bad: q.queue.start_workers(worker, bad),
        [*NO_INT, *TOO_SMALL, Case(None, TypeError)],
    ),
    (
        "start_workers",
        "error_handler",
        lambda q, bad: q.queue.start_workers(worker, 1, bad),
        NO_HANDLER,
    ),
    (
        "process",
        "worker_func",
        lambda q, bad: q.process(bad),
        [*NO_WORKER, Case(None, TypeError)],
    ),
    ("process", "num_workers", lambda q, bad: q.process(worker, bad), NO_INT + TOO_SMALL),
    ("process", "error_handler", lambda q, bad: q.process(worker, 1, bad), NO_HANDLER),
    ("batch_process", "items", lambda q, bad: q.batch_process(bad, worker), NO_ITEMS),
    (
        "batch_process",
        "worker_func",
        lambda q, bad: q.batch_process([1], bad),
        [*NO_WORKER, Case(None, TypeError)],
    ),
    (
        "batch_process",
        "num_workers",
        lambda q, bad: q.batch_process([1], worker, bad),
        NO_INT + TOO_SMALL,
    ),
    (
        "batch_process",
        "error_handler",
        lambda q, bad: q.batch_process([1], worker, 1, bad),
        NO_HANDLER,
    ),
    ("map", "items", lambda q, bad: q.map(worker, bad), NO_ITEMS),
    ("map", "worker_func", lambda q, bad: q.map(bad, [1]), [*NO_WORKER, Case(None, TypeError)]),
    (
        "map",
        "num_workers",
        lambda q, bad: q.map(worker, [1], num_workers=bad),
        NO_INT + TOO_SMALL,
    ),
]


async def attempt(call: Call, queue: WorkQueue[Any], bad: Any) -> None:
    """Make the call; ``map`` must refuse when it is called, before it is iterated."""
    result = call(queue, bad)
    if isinstance(result, Awaitable):
        await result


@pytest.mark.parametrize(("method", "name", "call", "cases"), CALLS, ids=ids)
async def test_a_bad_argument_is_refused_at_the_call_and_changes_nothing(
    method: str, name: str, call: Call, cases: list[Case]
) -> None:
    async with WorkQueue[Any](2) as queue:
        await queue.put("item")
        await queue.process(AsyncMock(), 3)
        tasks = asyncio.all_tasks()
        for case in cases:
            with pytest.raises(case.error) as caught:
                await attempt(call, queue, case.value)
            assert_names(caught.value, case, name)
            assert queue.status is QueueStatus.PROCESSING
            assert queue.worker_count == 3
            assert queue.unprocessed == ["item"]
            assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize(
    ("method", "name", "call", "cases"),
    [row for row in CALLS if row[0] not in {"put", "submit", "get", "processing"}],
    ids=ids,
)
async def test_a_bad_argument_starts_nothing(
    method: str, name: str, call: Call, cases: list[Case]
) -> None:
    queue: WorkQueue[Any] = WorkQueue()
    tasks = asyncio.all_tasks()
    for case in cases:
        with pytest.raises(case.error):
            await attempt(call, queue, case.value)
        assert queue.status is QueueStatus.IDLE
        assert queue.worker_count == 0
        assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize(
    "seconds",
    [
        1e308,
        10**400,
        Fraction(10**400),
    ],
    ids=["float", "int", "rational"],
)
async def test_a_number_of_seconds_beyond_all_measure_is_for_ever_or_refused(seconds: Any) -> None:
    release = asyncio.Event()

    async def hold(item: int) -> None:
        await release.wait()

    async with BoundedQueue[int](1) as queue:
        with suppress(ValueError):
            getting = asyncio.ensure_future(queue.get(timeout=seconds))
            await asyncio.sleep(1)
            await queue.put(1)
            assert await getting == 1
            queue.task_done()
        await queue.put(2, timeout=0)
        with suppress(ValueError):
            putting = asyncio.ensure_future(queue.put(3, timeout=seconds))
            await asyncio.sleep(1)
            queue.get_nowait()
            assert await putting is True
        await queue.start_workers(hold, 1)
        await asyncio.sleep(1)
        with suppress(ValueError):
            stopping = asyncio.ensure_future(queue.stop(timeout=seconds))
            await asyncio.sleep(1)
            release.set()
            assert await stopping is True
        release.set()


COROUTINE_CALLS: dict[str, tuple[str, Call]] = {
    "start_workers": ("worker_func", lambda q, bad: q.queue.start_workers(bad, 1)),
    "start_workers, its handler": (
        "error_handler",
        lambda q, bad: q.queue.start_workers(worker, 1, bad),
    ),
    "process": ("worker_func", lambda q, bad: q.process(bad)),
    "process, its handler": ("error_handler", lambda q, bad: q.process(worker, 1, bad)),
    "batch_process": ("worker_func", lambda q, bad: q.batch_process([1], bad)),
    "batch_process, its handler": (
        "error_handler",
        lambda q, bad: q.batch_process([1], worker, 1, bad),
    ),
    "map": ("worker_func", lambda q, bad: q.map(bad, [1])),
}


@pytest.mark.parametrize("call", COROUTINE_CALLS)
async def test_a_coroutine_in_place_of_a_function_is_the_one_thing_said(call: str) -> None:
    name, make_call = COROUTINE_CALLS[call]
    queue: WorkQueue[Any] = WorkQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "was never awaited" would only confuse
        with pytest.raises(TypeError, match=f"got a coroutine.*{name}=worker, without calling it"):
            await attempt(make_call, queue, worker(1))
        gc.collect()
    assert queue.status is QueueStatus.IDLE


@pytest.mark.parametrize("call", ["batch_process", "map"])
async def test_an_object_whose_call_makes_a_generator_is_refused(call: str) -> None:
    _, make_call = COROUTINE_CALLS[call]
    with pytest.raises(TypeError, match="generator"):
        await attempt(make_call, WorkQueue(), Generates())


async def test_submit_refuses_what_cannot_be_called() -> None:
    async with BoundedQueue[int]() as queue:
        with pytest.raises(TypeError, match="call"):
            await queue.submit(1, call=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "good",
    [
        lambda item: None,
        lambda *items: None,
        lambda item, other=None: None,
        lambda item, /, **options: None,
        print,
        max,
        int,
        dict,
        [].append,
        functools.partial(two_parameters, 1),
        AsyncMock(),
    ],
    ids=ids,
)
async def test_whatever_can_be_called_with_one_argument_is_a_worker_function(good: Any) -> None:
    queue: WorkQueue[Any] = WorkQueue()
    await queue.process(good)
    assert queue.worker_count == 1
    await queue.stop()


@pytest.mark.parametrize(
    "good",
    [
        None,
        lambda exc, item: None,
        lambda *args: None,
        lambda exc, item, other=None: None,
        print,
        functools.partial(three_parameters, 1),
        AsyncMock(),
    ],
    ids=ids,
)
async def test_whatever_can_be_called_with_two_arguments_is_an_error_handler(good: Any) -> None:
    queue: WorkQueue[Any] = WorkQueue()
    await queue.process(worker, error_handler=good)
    assert queue.worker_count == 1
    await queue.stop()


# -- executors ------------------------------------------------------------------------------------


async def test_execute_refuses_what_cannot_be_called() -> None:
    async with AsyncExecutor() as executor:
        tasks = asyncio.all_tasks()
        for case in [*NO_FUNCTION, Case(generator, TypeError)]:
            with pytest.raises(TypeError) as caught:
                await executor.execute(case.value)
            assert_names(caught.value, case, "func")
            assert asyncio.all_tasks() == tasks


async def test_execute_says_so_when_it_is_given_a_coroutine() -> None:
    async with AsyncExecutor() as executor:
        with pytest.raises(TypeError, match=r"got a coroutine.*func=worker, without calling it"):
            await executor.execute(worker(1))  # type: ignore[call-overload]


async def test_the_map_of_an_executor_refuses_what_cannot_be_called_with_an_item() -> None:
    async with AsyncExecutor() as executor:
        for case in [*NO_WORKER, Case(None, TypeError)]:
            with pytest.raises(TypeError) as caught:
                await executor.map(case.value, [1])
            assert_names(caught.value, case, "func")


async def test_the_map_of_an_executor_refuses_what_cannot_be_iterated() -> None:
    async with AsyncExecutor() as executor:
        for case in NO_ITEMS:
            with pytest.raises(TypeError) as caught:
                await executor.map(worker, case.value)
            assert_names(caught.value, case, "items")


async def test_executors_refuse_a_bad_timeout_and_go_on() -> None:
    async with AsyncExecutor() as calls, Executor(Event) as events:
        for case in NO_SECONDS:
            for stop in (calls.shutdown, events.stop):
                with pytest.raises(ValueError, match="timeout") as caught:
                    await stop(case.value)
                assert_names(caught.value, case, "timeout")
        assert await calls.execute(AsyncMock(return_value=1)) == 1
        assert events.queue.status is QueueStatus.PROCESSING
