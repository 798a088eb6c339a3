"""The ways to get a job done that ``rate_limited_server.py`` compares.

Each is set up as its documentation has it. All call by httpx, and all make up to ``ATTEMPTS`` calls
for one item. What tenacity's documentation says of ``Retry-After`` (``wait_exception``) and of many
who want the same (``wait_random_exponential``) is used in all that use tenacity.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import aiolimiter
import aiometer
import httpx
import tenacity

from penstock import AdaptiveConcurrency, Limit, RetryPolicy, WorkQueue

ATTEMPTS = 7
#: Made once: httpx would make one for each client, which takes longer than some calls.
TLS = ssl.create_default_context()
#: Where calls are spread: in so many parts of a window.
SLICES = 4


@dataclass(frozen=True)
class Item:
    number: int
    tokens: int = 0


@dataclass(frozen=True)
class Told:
    """What the client believes that the service allows."""

    calls: int
    per: float
    at_once: int
    tokens: int | None = None


@dataclass
class Work:
    """A job to do: the items, the service, and what came back."""

    items: list[Item]
    told: Told
    url: str
    done: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        # The server is on this machine: not through a proxy. Connections for all who call at once.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url, timeout=60, limits=limits, verify=TLS, trust_env=False
        ) as client:
            yield client


Client: TypeAlias = Callable[[Work], Awaitable[None]]


async def post(client: httpx.AsyncClient, item: Item) -> httpx.Response:
    return await client.post(f"items/{item.number}", headers={"Tokens": str(item.tokens)})


# -- penstock -------------------------------------------------------------------------------------


async def penstock(
    work: Work, *, margin: float = 0.0, adapt: bool = False, knows: bool = True
) -> None:
    """With a margin, windows are so much longer than told, and calls are spread over each.

    ``docs/choosing-limits.md`` tells what that is for. ``knows``: whether there are limits at all.
    """
    told = work.told
    per = told.per * (1 + margin)
    limits = [Limit(told.calls, per=per, name="calls")] if knows else []
    if margin:
        limits.append(Limit(told.calls / SLICES, per=told.per / SLICES, name="spread"))
    if told.tokens is not None:
        limits.append(Limit(told.tokens, per=per, cost=lambda item: item.tokens, name="tokens"))
    queue = WorkQueue[Item](
        concurrency_limit=(
            AdaptiveConcurrency(max=told.at_once, start=told.at_once // 2)
            if adapt
            else told.at_once
        ),
        limits=limits,
        retry=RetryPolicy(attempts=ATTEMPTS),
    )
    async with work.client() as client:

        async def call(item: Item) -> None:
            response = await post(client, item)
            queue.limits.observe(response.headers)
            response.raise_for_status()
            work.done.append(item.number)

        await queue.batch_process(
            work.items, call, error_handler=lambda _, item: work.failed.append(item.number)
        )


# -- the others -----------------------------------------------------------------------------------


def told_to_wait(error: BaseException) -> float:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 429:
        return float(error.response.headers.get("Retry-After", "1"))
    return 0.0


def is_worth_it(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


retried = tenacity.retry(
    retry=tenacity.retry_if_exception(is_worth_it),
    wait=tenacity.wait_exception(told_to_wait)
    + tenacity.wait_random_exponential(multiplier=0.5, max=60),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    reraise=True,
)


async def to_the_end(work: Work, call: Callable[[Item], Awaitable[Any]], item: Item) -> None:
    try:
        await call(item)
    except httpx.HTTPError:
        work.failed.append(item.number)
    else:
        work.done.append(item.number)


async def naive(work: Work) -> None:
    """As many at once as are allowed, and try again what is refused."""
    semaphore = asyncio.Semaphore(work.told.at_once)
    async with work.client() as client:

        @retried
        async def call(item: Item) -> None:
            async with semaphore:
                (await post(client, item)).raise_for_status()

        await asyncio.gather(*(to_the_end(work, call, item) for item in work.items))


async def with_aiolimiter(work: Work, *, bursts: bool = True) -> None:
    """``bursts=False`` is what its documentation has for an even flow."""
    told = work.told
    semaphore = asyncio.Semaphore(told.at_once)
    calls = (
        aiolimiter.AsyncLimiter(told.calls, told.per)
        if bursts
        else aiolimiter.AsyncLimiter(1, told.per / told.calls)
    )
    tokens = None if told.tokens is None else aiolimiter.AsyncLimiter(told.tokens, told.per)
    async with work.client() as client:

        @retried
        async def call(item: Item) -> None:
            async with semaphore:
                if tokens is not None:
                    await tokens.acquire(item.tokens)
                async with calls:
                    (await post(client, item)).raise_for_status()

        await asyncio.gather(*(to_the_end(work, call, item) for item in work.items))


async def with_aiometer(work: Work) -> None:
    """It has no tokens: so many calls as cost what is allowed on average."""
    told = work.told
    rate = told.calls / told.per
    if told.tokens is not None:
        mean = sum(item.tokens for item in work.items) / len(work.items)
        rate = min(rate, told.tokens / told.per / mean)
    async with work.client() as client:

        @retried
        async def call(item: Item) -> None:
            (await post(client, item)).raise_for_status()

        await aiometer.run_on_each(
            partial(to_the_end, work, call),
            work.items,
            max_at_once=told.at_once,
            max_per_second=rate,
        )
