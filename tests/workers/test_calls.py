"""What can be given as a worker function, and where it then runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from penstock import AsyncExecutor, WorkQueue


async def async_double(item: int) -> int:
    await asyncio.sleep(1)
    return item * 2


async def async_double_at_once(item: int) -> int:
    return item * 2


def plain_double(item: int) -> int:
    return item * 2


async def async_multiply(factor: int, item: int) -> int:
    return factor * item


def plain_multiply(factor: int, item: int) -> int:
    return factor * item


class Doubler:
    async def async_method(self, item: int) -> int:
        return item * 2

    def plain_method(self, item: int) -> int:
        return item * 2

    @classmethod
    async def async_class_method(cls, item: int) -> int:
        return item * 2

    @staticmethod
    async def async_static_method(item: int) -> int:
        return item * 2


class AsyncCallable:
    async def __call__(self, item: int) -> int:
        return item * 2


class PlainCallable:
    def __call__(self, item: int) -> int:
        return item * 2


class Awaitable:
    """Neither a coroutine nor a future, but it can be awaited."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __await__(self) -> Any:
        return async_double(self.item).__await__()


def decorated(func: Callable[[int], Any]) -> Callable[[int], Any]:
    """Hide that ``func`` is async, as many a decorator does."""

    @functools.wraps(func)
    def wrapper(item: int) -> Any:
        return func(item)

    return wrapper


KINDS: dict[str, Callable[[int], Any]] = {
    "an async function": async_double,
    "an async function that never waits": async_double_at_once,
    "a plain function": plain_double,
    "a lambda": lambda item: item * 2,
    "a lambda around an async function": lambda item: async_multiply(2, item),
    "a decorator around an async function": decorated(async_double),
    "a partial of an async function": functools.partial(async_multiply, 2),
    "a partial of a plain function": functools.partial(plain_multiply, 2),
    "a partial of a callable object": functools.partial(AsyncCallable()),
    "a partial of a partial": functools.partial(functools.partial(async_multiply), 2),
    "an async method": Doubler().async_method,
    "a plain method": Doubler().plain_method,
    "an async class method": Doubler.async_class_method,
    "an async static method": Doubler.async_static_method,
    "an object with an async __call__": AsyncCallable(),
    "an object with a plain __call__": PlainCallable(),
    "something that returns an awaitable": Awaitable,
    "an AsyncMock": AsyncMock(side_effect=lambda item: item * 2),
    "a Mock": Mock(side_effect=lambda item: item * 2),
    "a built-in method": (2).__mul__,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_function_may_be(kind: str) -> None:
    async with WorkQueue[int]() as queue:
        await queue.process(KINDS[kind], 2)
        futures = [await queue.submit(item) for item in range(5)]
        assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8]
    assert queue.metrics["errors"] == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_executor_can_call(kind: str) -> None:
    async with AsyncExecutor(2) as executor:
        assert await executor.execute(KINDS[kind], 21) == 42
        assert await executor.map(KINDS[kind], range(3)) == [0, 2, 4]


async def test_a_type_may_be_a_worker_function() -> None:
    assert [text async for text in WorkQueue[int]().map(str, [1, 2])] == ["1", "2"]


async def test_a_type_whose_instances_are_async_callables_may_be_a_worker_function() -> None:
    class Job:
        def __init__(self, item: int) -> None:
            self.item = item

        async def __call__(self) -> int:
            return self.item * 2

    [job] = [job async for job in WorkQueue[int]().map(Job, [21])]
    assert isinstance(job, Job)
    assert await job() == 42


async def where(func: Callable[[Any], Any]) -> set[int]:
    """The threads in which a worker function runs."""
    return {thread async for thread in WorkQueue[int]().map(func, range(3))}


async def test_async_functions_run_on_the_loop() -> None:
    async def here(item: int, _: Any = None) -> int:
        return threading.get_ident()

    class Here:
        async def __call__(self, item: int) -> int:
            return threading.get_ident()

    ours = {threading.get_ident()}
    assert await where(here) == ours
    assert await where(Here()) == ours
    assert await where(functools.partial(here)) == ours
    assert await where(lambda item: here(item, None)) == ours


async def test_plain_functions_run_in_threads() -> None:
    assert threading.get_ident() not in await where(lambda item: threading.get_ident())


async def test_a_coroutine_made_in_a_thread_keeps_the_context_of_its_item() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def worker(item: int, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return variable.get()

    async with WorkQueue[int]() as queue:
        await queue.process(lambda item: worker(item, 1))
        variable.set("of the put")
        future = await queue.submit(1)
        variable.set("changed")
        assert await future == "of the put"


async def test_a_stop_iteration_becomes_a_runtime_error_in_either_kind_of_function() -> None:
    async def in_the_loop(item: int) -> None:
        raise StopIteration(item)

    def in_a_thread(item: int) -> None:
        raise StopIteration(item)

    async with AsyncExecutor(1) as executor:
        for func in (in_the_loop, in_a_thread):
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                await executor.execute(func, 1)
            assert isinstance(caught.value.__cause__, StopIteration)


async def test_keyword_arguments_reach_a_plain_function() -> None:
    async with AsyncExecutor(1) as executor:
        assert await executor.execute(int, "ff", base=16) == 255
