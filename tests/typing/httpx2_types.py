"""What type checkers make of the transports for httpx2: theirs are its classes, not httpx's."""

from __future__ import annotations

import httpx
import httpx2
from typing_extensions import assert_type

import penstock.httpx
import penstock.httpx2
from penstock import Limit, Limiter, RetryPolicy
from penstock.httpx2 import PolicyTransport, SyncPolicyTransport


def cost(request: httpx2.Request) -> float:
    return float(len(request.content))


def is_conflict(response: httpx2.Response) -> bool:
    return response.status_code == 409


def is_conflict_of_httpx(response: httpx.Response) -> bool:
    return response.status_code == 409


async def tasks() -> None:
    transport = PolicyTransport(
        [Limit(5, per=1, cost=cost)],
        retry=RetryPolicy(on=penstock.httpx2.worth_retrying),
        transport=httpx2.AsyncHTTPTransport(http2=True),
        is_failure=is_conflict,
    )
    assert_type(transport.limits, Limiter)
    base: httpx2.AsyncBaseTransport = transport
    client = httpx2.AsyncClient(transport=base)
    assert_type(await client.get("http://nowhere"), httpx2.Response)
    request = httpx2.Request("GET", "http://nowhere")
    assert_type(await transport.handle_async_request(request), httpx2.Response)


def threads() -> None:
    transport = SyncPolicyTransport(Limiter([]), transport=httpx2.HTTPTransport(), timeout=1)
    client = httpx2.Client(transport=transport)
    assert_type(client.get("http://nowhere"), httpx2.Response)
    try:
        transport.close()
    except penstock.httpx2.QueueFullError as error:
        assert_type(error.queue_size, int | None)


def wrong_uses() -> None:
    PolicyTransport(transport=httpx.AsyncHTTPTransport())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    PolicyTransport(is_failure=is_conflict_of_httpx)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    httpx2.AsyncClient(transport=penstock.httpx.PolicyTransport())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    httpx2.AsyncClient(transport=SyncPolicyTransport())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
