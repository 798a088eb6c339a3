"""What type checkers make of the transports: clients take them, and their functions are typed."""

from __future__ import annotations

import httpx
from typing_extensions import assert_type

import penstock.httpx
from penstock import AdaptiveConcurrency, Limit, Limiter, RetryPolicy
from penstock.httpx import PolicyTransport, SyncPolicyTransport


def cost(request: httpx.Request) -> float:
    return float(len(request.content))


def is_conflict(response: httpx.Response) -> bool:
    return response.status_code == 409


def is_request(request: httpx.Request) -> bool:
    return bool(request.method)


async def tasks() -> None:
    transport = PolicyTransport(
        [Limit(5, per=1, cost=cost)],
        retry=RetryPolicy(on=penstock.httpx.worth_retrying),
        concurrency=AdaptiveConcurrency(1, 50),
        transport=httpx.AsyncHTTPTransport(http2=True),
        is_failure=is_conflict,
    )
    assert_type(transport.limits, Limiter)
    async with httpx.AsyncClient(transport=transport) as client:
        assert_type(await client.get("http://nowhere"), httpx.Response)
    assert_type(
        await transport.handle_async_request(httpx.Request("GET", "http://nowhere")), httpx.Response
    )
    base: httpx.AsyncBaseTransport = transport
    del base
    PolicyTransport(transport=httpx.HTTPTransport())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    PolicyTransport(is_failure=is_request)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    PolicyTransport(limits=Limit(5, per=1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def threads() -> None:
    transport = SyncPolicyTransport(Limiter([]), transport=httpx.HTTPTransport(), timeout=1)
    with httpx.Client(transport=transport) as client:
        assert_type(client.get("http://nowhere"), httpx.Response)
    httpx.AsyncClient(transport=transport)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    try:
        transport.close()
    except penstock.httpx.QueueFullError as error:
        assert_type(error.queue_size, int | None)
