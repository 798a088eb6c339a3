"""What can be known of a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock

import pytest

from penstock._util.functions import may_suspend


@asynccontextmanager
async def block() -> AsyncIterator[None]:
    yield


async def never(item: Any) -> Any:
    return item


async def awaits(item: Any) -> None:
    await asyncio.sleep(item)


async def enters(item: Any) -> None:
    async with block():
        pass


async def iterates(item: Any) -> None:
    async for _ in item:
        pass


async def comprehends(item: Any) -> Any:
    return [one async for one in item]


@wraps(never)
async def wrapper(item: Any) -> Any:
    return await never(item)


@wraps(never)
def plain_wrapper(item: Any) -> Any:
    return never(item)


class Service:
    async def never(self, item: Any) -> Any:
        return item

    async def awaits(self, item: Any) -> None:
        await asyncio.sleep(item)

    async def __call__(self, item: Any) -> None: ...


@pytest.mark.parametrize(
    "func", [never, partial(never), Service().never, Service.never, partial(Service().never, 1)]
)
def test_a_function_without_an_await_never_suspends(func: Any) -> None:
    assert not may_suspend(func)


@pytest.mark.parametrize(
    "func",
    [
        awaits,
        enters,
        iterates,
        comprehends,
        wrapper,
        plain_wrapper,
        partial(awaits, 1),
        Service().awaits,
        Service(),
        AsyncMock(),
        lambda item: never(item + 1),
        print,
    ],
)
def test_any_other_may(func: Any) -> None:
    assert may_suspend(func)
