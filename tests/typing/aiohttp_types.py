"""What type checkers make of the middleware: sessions take it, and its functions are typed."""

from __future__ import annotations

import aiohttp
from typing_extensions import assert_type

import penstock.aiohttp
from penstock import Limit, Limiter, RetryPolicy
from penstock.aiohttp import PolicyMiddleware, permit_of


def is_conflict(response: aiohttp.ClientResponse) -> bool:
    return response.status == 409


def is_request(request: aiohttp.ClientRequest) -> bool:
    return bool(request.method)


async def tasks() -> None:
    middleware = PolicyMiddleware(
        [Limit(5, per=1)], retry=RetryPolicy(3), is_failure=is_conflict, retry_unsafe=True
    )
    assert_type(middleware.limits, Limiter)
    async with (
        aiohttp.ClientSession(middlewares=[middleware]) as session,
        session.get("http://nowhere") as response,
    ):
        permit = permit_of(response)
        if permit is not None:
            permit.settle("tokens", 1)
    PolicyMiddleware(is_failure=is_request)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    PolicyMiddleware(limits=Limit(5, per=1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    try:
        await session.get("http://nowhere")
    except penstock.aiohttp.QueueFullError as error:
        assert_type(error.queue_size, int | None)
