"""What type checkers make of the adapter: sessions take it, and its functions are typed."""

from __future__ import annotations

import requests
from typing_extensions import assert_type

import penstock.requests
from penstock import Limit, Limiter, RetryPolicy
from penstock.requests import PolicyAdapter, permit_of


def is_conflict(response: requests.Response) -> bool:
    return response.status_code == 409


def is_request(request: requests.PreparedRequest) -> bool:
    return bool(request.method)


def threads() -> None:
    adapter = PolicyAdapter(
        [Limit(5, per=1)], retry=RetryPolicy(3), is_failure=is_conflict, retry_unsafe=True
    )
    assert_type(adapter.limits, Limiter)
    session = requests.Session()
    session.mount("https://", adapter)
    response = session.get("https://nowhere")
    permit = permit_of(response)
    if permit is not None:
        permit.settle("tokens", 1)
    PolicyAdapter(is_failure=is_request)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    PolicyAdapter(limits=Limit(5, per=1))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    try:
        session.get("https://nowhere")
    except penstock.requests.QueueFullError as error:
        assert_type(error.queue_size, int | None)
