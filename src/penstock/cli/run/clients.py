"""The HTTP clients of a run: several, as one becomes slow with the number of its connections.

(Each request makes httpx look at each of its connections, and again at each for those that are
idle: with 100 of them that takes longer than all the rest.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any

import httpx

from penstock._util.compat import Self
from penstock.cli.run.credentials import Credentials
from penstock.errors import PenstockError

#: Connections of one client at most.
_SIZE = 8
#: Bytes of an answer, unpacked, that are kept in memory; and of a redirect, which nobody sees.
LONGEST_ANSWER, _LONGEST_REDIRECT = 64 * 1024 * 1024, 64 * 1024
#: Headers that say how a body was sent, and are not true of one that is unpacked.
_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class AnswerTooLongError(PenstockError, httpx.RequestError):
    """More than anybody wants to keep."""


class _Bounded(httpx.AsyncByteStream):
    """The body of a redirect."""

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._body:
            size += len(piece)
            if size > _LONGEST_REDIRECT:
                limit = _LONGEST_REDIRECT // 1024
                raise AnswerTooLongError(f"a redirect with more than {limit} KiB")
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx.Response) -> None:
    if response.has_redirect_location:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Bounded(response.stream)


async def _read(response: httpx.Response) -> httpx.Response:
    """The response with its body."""
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size > LONGEST_ANSWER:
            raise AnswerTooLongError(f"more than {LONGEST_ANSWER // 2**20} MiB")
    headers = [
        (name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_WIRE
    ]
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=b"".join(pieces),
        request=response.request,
        extensions=response.extensions,
        history=response.history,
    )


class Clients:
    """As many clients as ``concurrency`` requests at a time need.

    Redirects do not take the ``credentials`` to another service.

    Raises:
        ImportError, ValueError: the proxy settings in the environment cannot be used.
    """

    def __init__(self, concurrency: int, credentials: Credentials | None = None) -> None:
        self._trust = httpx.create_ssl_context()  # made once: it takes a while
        self._credentials = credentials or Credentials()
        sizes = [min(_SIZE, concurrency - begin) for begin in range(0, concurrency, _SIZE)]
        try:
            self._clients = [self._client(size) for size in sizes]
        except httpx.InvalidURL as error:  # which is no ValueError
            raise ValueError(str(error)) from None
        self._under_way = [0] * len(sizes)
        self._opened = AsyncExitStack()

    def _client(self, size: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._trust,
            follow_redirects=True,
            timeout=None,  # noqa: S113 - Sender limits each attempt as a whole
            limits=httpx.Limits(max_connections=size, max_keepalive_connections=size),
            headers={"User-Agent": f"penstock/{version('penstock')}"},
            # No cookies: requests are independent of each other, in whatever order they run.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            event_hooks={
                "request": [self._credentials.strip_cross_origin],
                "response": [_bound],
            },
        )

    async def __aenter__(self) -> Self:
        for client in self._clients:
            await self._opened.enter_async_context(client)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._opened.aclose()

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """See ``httpx.AsyncClient.request``; the first client with a free connection does it.

        Raises:
            AnswerTooLongError: the answer has more than ``LONGEST_ANSWER`` bytes, unpacked.
        """
        chosen = min(range(len(self._clients)), key=lambda index: self._under_way[index] >= _SIZE)
        self._under_way[chosen] += 1
        try:
            client = self._clients[chosen]
            response = await client.send(client.build_request(method, url, **options), stream=True)
            try:
                return await _read(response)
            finally:
                await response.aclose()
        finally:
            self._under_way[chosen] -= 1
