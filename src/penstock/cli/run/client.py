"""The HTTP client of a run: one aiohttp session, with as many connections as requests at once."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import aiohttp
from yarl import URL

from penstock._util.compat import Self
from penstock.cli.run.connections import Connections
from penstock.cli.run.credentials import Credentials, origin_of
from penstock.cli.run.requests import Request
from penstock.errors import PenstockError

#: Bytes of an answer, unpacked, that are kept in memory.
LONGEST_ANSWER = 64 * 1024 * 1024
#: Redirects that are followed for one request.
_MOST_REDIRECTS = 10
#: A body that is sent in one piece; a longer one is sent piece by piece.
_ONE_PIECE = 1024 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
#: Those of them that keep method and body, whatever the method is.
_KEEP_METHOD = {307, 308}
_JSON_FIRST = "application/json, */*;q=0.5"


class AnswerTooLongError(PenstockError):
    """More than anybody wants to keep."""


class RedirectsError(PenstockError):
    """A redirect that leads nowhere."""


@dataclass
class Response:
    """An answer, whole."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def location(self) -> str:
        """Where it redirects to; "" if it does not."""
        return self.headers.get("Location", "") if self.status in _REDIRECTS else ""

    @property
    def media_type(self) -> str:
        """Its ``Content-Type`` without parameters; "" if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """The encoding that its ``Content-Type`` names; "" if it names none."""
        for parameter in self.headers.get("Content-Type", "").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip("\"'")
        return ""


class AiohttpClient:
    """Sends requests and reads their answers.

    Redirects after 307 and 308 are followed, and after 301, 302 and 303 those of GET and HEAD: an
    API does not mean that a POST is to become a GET. What is secret does not go along to another
    service.

    Args:
        concurrency: the most requests at once.
        credentials: what must stay at their service.
        timeout: seconds for each attempt, redirects included; ``math.inf``: as long as it takes.
        connections: TLS, proxies, and the time to connect.
    """

    def __init__(
        self,
        concurrency: int,
        credentials: Credentials | None = None,
        timeout: float = math.inf,
        connections: Connections | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._credentials = credentials or Credentials()
        self._timeout = None if timeout == math.inf else timeout
        self.connections = connections or Connections()
        self._headers = {"User-Agent": f"penstock/{version('penstock')}", "Accept": _JSON_FIRST}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, ssl=self.connections.tls_context()
            ),
            headers=self._headers,
            # No cookies: requests are independent of each other, in whatever order they run.
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),
            timeout=self._timeout_of(self._timeout),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def request(self, request: Request, headers: dict[str, str]) -> Response:
        """Send ``request`` with ``headers``, and read the answer.

        Raises:
            AnswerTooLongError: the answer has more than ``LONGEST_ANSWER`` bytes, unpacked.
            RedirectsError: it is redirected in circles, or to what is no URL.
            aiohttp.ClientError, asyncio.TimeoutError, OSError: there is no whole answer.
        """
        text = self._credentials.with_params(request)
        url = URL(text, encoded=True)
        data: Any = request.content
        if request.multipart is not None:
            data = await asyncio.to_thread(request.multipart.content)
        response = await self._send(request.method, url, headers, data, None)
        if not response.location:
            return response
        return await self._follow(request, url, headers, data, response)

    async def _follow(
        self, request: Request, url: URL, headers: dict[str, str], data: Any, response: Response
    ) -> Response:
        clock = asyncio.get_running_loop().time
        began = clock()
        for _ in range(_MOST_REDIRECTS):
            keeps_method = response.status in _KEEP_METHOD or request.method in ("GET", "HEAD")
            if not response.location or not keeps_method:
                return response
            before = url
            try:
                url = url.join(URL(response.location)).with_fragment(None)
            except ValueError:
                raise RedirectsError("redirected to an invalid URL") from None
            if url.scheme not in ("http", "https"):
                raise RedirectsError("redirected to a URL that is neither http nor https")
            if origin_of(url) != origin_of(before):
                headers = self._credentials.strip_cross_origin(headers)
            left = None if self._timeout is None else self._timeout - (clock() - began)
            response = await self._send(request.method, url, headers, data, left)
        raise RedirectsError(f"redirected more than {_MOST_REDIRECTS} times")

    async def _send(
        self, method: str, url: URL, headers: dict[str, str], data: Any, left: float | None
    ) -> Response:
        options: dict[str, Any] = {}
        if left is not None:
            if left <= 0:
                raise asyncio.TimeoutError
            options["timeout"] = self._timeout_of(left)
        if self.connections.has_proxies:
            options["proxy"] = self.connections.proxy_for(url)
        if isinstance(data, bytes):  # aiohttp warns of long ones
            options["data"] = data if len(data) < _ONE_PIECE else io.BytesIO(data)
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as response:
            is_redirect = response.status in _REDIRECTS and "Location" in response.headers
            # Nobody looks at what a redirect says beside the place.
            content = b"" if is_redirect else await _read(response)
            return Response(response.status, response.reason or "", response.headers, content)

    def _timeout_of(self, seconds: float | None) -> aiohttp.ClientTimeout:
        connect = self.connections.connect_timeout
        if seconds is not None:
            connect = min(connect, seconds)
        return aiohttp.ClientTimeout(total=seconds, sock_connect=connect)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    is_packed = "Content-Encoding" in response.headers
    if length is not None and length <= LONGEST_ANSWER and not is_packed:
        return await response.read()
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > LONGEST_ANSWER:
            response.close()
            raise AnswerTooLongError(f"more than {LONGEST_ANSWER // 2**20} MiB")
    return b"".join(pieces)
