"""What type checkers make of executors and events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from typing_extensions import assert_type

from penstock import (
    AsyncExecutor,
    Event,
    Execution,
    ExecutionStatus,
    Executor,
    WorkQueue,
    protocols,
)
from penstock.testing import run


async def fetch(item: int, *, retries: int = 0) -> str:
    return str(item + retries)


def compute(item: int) -> float:
    return item / 2


@dataclass
class Upload(Event):
    """An event as users write them."""

    path: str

    async def invoke(self) -> int:
        return len(self.path)


async def calls() -> None:
    async with AsyncExecutor(max_concurrency=10) as executor:
        assert_type(executor, AsyncExecutor)
        assert_type(await executor.execute(fetch, 1, retries=2), str)
        assert_type(await executor.execute(compute, 1), float)
        assert_type(await executor.map(fetch, [1]), list[str])
        assert_type(await executor.map(compute, [1]), list[float])
        await executor.shutdown(timeout=1)
        assert_type(executor.max_concurrency, int | None)


async def texts() -> AsyncIterator[str]:
    yield "a"


async def maps() -> None:
    executor = AsyncExecutor()
    assert_type(await executor.map(len, texts()), list[int])
    assert_type(await executor.map(fetch, range(3)), list[str])


async def wrong_uses() -> None:
    executor = AsyncExecutor()
    await executor.map(fetch, ["a"])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await executor.map(compute, texts())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await executor.execute(5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    AsyncExecutor("5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Executor(int)  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
    Executor(Upload("a.txt"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def events() -> None:
    async with Executor(Upload) as executor:
        assert_type(executor, Executor[Upload])
        executor.append(Upload("a.txt"))
        await executor.forward()
        await executor.wait()
        assert_type(executor.queue, WorkQueue[Upload])
        assert_type(executor.completed, list[Upload])
        assert_type(executor.forget_ended(), list[Upload])
        assert_type(executor.is_all_processed, bool)
        assert_type(await executor.stop(timeout=1), bool)
        executor.append(Event())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def an_event(upload: Upload) -> None:
    assert_type(upload.id, str)
    assert_type(upload.execution, Execution)
    assert_type(upload.execution.status, ExecutionStatus)
    assert_type(upload.execution.error, BaseException | None)
    assert_type(upload.execution.duration, float | None)
    assert_type(Upload("a.txt"), Upload)


def meets_its_protocols(
    calls: AsyncExecutor, events: Executor[Upload]
) -> tuple[protocols.Executor, protocols.AsyncResourceManager, protocols.AsyncResourceManager]:
    """A class meets a protocol when it may be returned for one."""
    return calls, calls, events


def in_virtual_time() -> None:
    assert_type(run(fetch(1)), str)
