"""The connection to NATS: opening it with errors that say what to do, requests, reconnecting.

nats-py does the protocol and reconnects by itself. What is added here: a connection that cannot be
made ends in one clear error instead of an endless loop; a request that is refused for want of a
permission fails at once instead of timing out; and one whose connection was lost is told so.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError
from nats.js.api import Header

from penstock.errors import BrokerError, CodecError

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

#: Seconds that a server has to answer.
PATIENCE = 5.0
#: Seconds between two looks for requests that have waited long enough.
_SWEEP = 0.25
#: What is different from nats-py's defaults: a connection that is dead without a word is noticed
#: in half a minute, not in four, and reconnecting never ends.
_OPTIONS = {
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "reconnect_time_wait": 0.5,
    "max_reconnect_attempts": -1,
}
_OURS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb")
_DENIED = re.compile(r'permissions violation for ((?:publish|subscription) to "([^"]+)")')
_SCHEME = re.compile(r"[a-z]{1,10}://")
_NO_RESPONDERS = "503"
#: Bytes of headers on the wire, beside names and values: the first and last line, and each.
_HEADER_LINES, _HEADER_MARKS = 14, 4


class LostError(Exception):
    """There is no answer: it did not come in time, or the connection broke. Anything may be."""


class NobodyError(Exception):
    """Nobody heard it, so nothing was done: there is no listener, or no connection."""


class ApiError(Exception):
    """JetStream says no. ``code``: the number of the error, as the server's source lists them."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))
        super().__init__(str(error.get("description", "")))


class Wire:
    """One connection, in one event loop.

    Args:
        servers: URLs of servers, ``nats://host:4222`` for example.
        options: what ``nats.connect`` takes beside: ``user``, ``password``, ``token``,
            ``user_credentials``, ``nkeys_seed``, ``tls``, ``name`` and so on.
    """

    def __init__(
        self, servers: Sequence[str], options: Mapping[str, Any], logger: logging.Logger
    ) -> None:
        self._servers = servers
        self._options = options
        self._logger = logger
        self._client: Client | None = None
        self._complaints: list[Exception] = []
        self._complained = asyncio.Event()
        self._inbox = ""
        # Why no answer will come: to hear them is not permitted.
        self._denied: BrokerError | None = None
        # Whether it was said that the credentials are good no more.
        self._is_refused = False
        self._numbers = 0
        # Who waits for answers: by the end of the reply subject, where the request went, until when
        # it may take, and who waits. One timer looks after all of them: one for each would cost as
        # much as the rest of a request.
        self._waiting: dict[str, tuple[str, float, asyncio.Future[Msg]]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        #: Called when the connection is there again.
        self.on_reconnect: Callable[[], None] | None = None

    @property
    def client(self) -> Client:
        """The client of nats-py."""
        assert self._client is not None, "the wire is open"
        return self._client

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, so that no answer will ever come."""
        return self._client is None or self._client.is_closed

    @property
    def is_lost(self) -> bool:
        """Whether there is no connection just now."""
        return self._client is None or not self._client.is_connected

    @property
    def where(self) -> str:
        """The servers, for people: no password, no token."""
        return ", ".join(map(bare_url, self._servers))

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerError: no server could be reached, or none lets us in.
        """
        self._client = client = Client()
        self._inbox = ""
        self._complaints.clear()
        self._complained = asyncio.Event()  # the last one may belong to a loop that is gone
        self._denied = None
        self._waiting.clear()
        self._sweep = None  # that of a loop that is gone
        options = {**_OPTIONS, **self._options}
        connecting = asyncio.ensure_future(
            client.connect(
                servers=list(self._servers),
                error_cb=self._complain,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._closed,
                **options,
            )
        )
        try:
            error = await self._first_failure(connecting)
            if error is not None:
                raise BrokerError(self._explain(error)) from error
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        except BaseException:
            self._inbox = ""
            await _end(connecting)
            with suppress(Exception):
                await client.close()
            raise

    async def _first_failure(self, connecting: asyncio.Future[None]) -> Exception | None:
        # nats-py tries its servers in turn, without end where reconnecting is to have none. Once
        # each is enough to know that something is wrong.
        while True:
            self._complained.clear()
            news: asyncio.Future[Any] = asyncio.ensure_future(self._complained.wait())
            waited_for: list[asyncio.Future[Any]] = [connecting, news]
            try:
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if connecting.done():
                error = connecting.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                return error
            last, count = self._complaints[-1], len(self._servers)
            # Who is not let in may be cut off before the reason arrives: ask again.
            clear = [one for one in self._complaints if not isinstance(one, ConnectionResetError)]
            if _is_refusal(last) or len(clear) >= count or len(self._complaints) >= 3 * count:
                return last

    def _explain(self, error: Exception) -> str:
        where = self.where
        # Who is not let in may be cut off before the reason arrives.
        if _is_refusal(error) or isinstance(error, ConnectionResetError):
            return (
                f"The NATS server at {where} refuses these credentials: check user and password, "
                "token or user_credentials, in the URL or in options="
            )
        if isinstance(error, socket.gaierror):
            return f"No such host: the NATS server at {where} cannot be found. Check the URL"
        if isinstance(error, ConnectionRefusedError):
            return (
                f"Nothing listens at {where}: is nats-server running there? "
                "To start one here: nats-server -js"
            )
        if isinstance(error, ssl.SSLError):
            return f"No TLS connection to {where}: {error}. Check options={{'tls': ...}}"
        if isinstance(error, asyncio.TimeoutError):
            return f"The NATS server at {where} does not answer. Check host and port"
        return f"Cannot connect to NATS at {where}: {str(error) or type(error).__name__}"

    async def close(self) -> None:
        """Send what waits to be sent, and disconnect."""
        client = self._client
        if client is None:
            return
        self._inbox = ""  # from here on nothing that it tells is news
        if client.is_connected:
            with suppress(NatsError, OSError, asyncio.TimeoutError):
                await client.flush(timeout=1)
        self._forget_waiting()
        with suppress(Exception):
            await client.close()

    # -- requests -----------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> Msg:
        """Send, and return the answer.

        Raises:
            LostError: none came. Whether the request was heard nobody knows.
            NobodyError: nobody listens there, or there is no connection for so long.
            CodecError: it is too large; it was not sent.
            BrokerError: it is not permitted; it was not heard.
        """
        if self._denied is not None:
            raise self._denied
        client = self.client
        if not client.is_connected:  # or nats-py would keep it and send it later, unasked
            await self._wait_for_connection(timeout)
        self._check_size(payload, headers)
        self._numbers += 1
        token = str(self._numbers)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = (subject, loop.time() + timeout, future)
        if self._sweep is None:
            self._sweep = loop.call_later(_SWEEP, self._expire, loop)
        try:
            await client.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            answer = await future
        except (NatsError, OSError) as error:
            raise LostError(str(error)) from error
        finally:
            del self._waiting[token]
        if answer.headers and answer.headers.get(Header.STATUS) == _NO_RESPONDERS:
            raise NobodyError(f"nobody listens to {subject}")
        return answer

    def _check_size(self, payload: bytes, headers: dict[str, str] | None) -> None:
        # Headers count too. nats-py does not know, and the server hangs up on who sends too much.
        size, largest = len(payload), self.client.max_payload
        if headers is not None:
            size += _HEADER_LINES + sum(
                len(name.encode()) + len(value.encode()) + _HEADER_MARKS
                for name, value in headers.items()
            )
        if size > largest:
            raise CodecError(
                f"The item is {size} bytes with its headers, and the NATS server at {self.where} "
                f"takes {largest}: put less into it (the name of a file, say), or raise "
                "max_payload in the server's configuration"
            )

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API, ``STREAM.INFO.name`` for example.

        Raises:
            ApiError: it says no.
            LostError, NobodyError, BrokerError: as :meth:`request`.
        """
        payload = b"" if request is None else json.dumps(request).encode()
        answer = await self.request(f"$JS.API.{subject}", payload)
        return reading(answer)

    async def send(self, subject: str, payload: bytes = b"", reply: str = "") -> bool:
        """Send without waiting for anything; False where that cannot be."""
        try:
            await self.client.publish(subject, payload, reply=reply)
        except (NatsError, OSError):
            return False
        return True

    async def subscribe(self, subject: str, call: Callable[[Msg], Any]) -> Subscription:
        """Have ``call`` called, an async function, with each message on a subject."""
        return await self.client.subscribe(subject, cb=call)

    async def is_alive(self) -> bool:
        """Whether the server answers at all; if not, connect anew, to another one if there is."""
        client = self.client
        if not client.is_connected:
            return False
        try:
            await client.flush(timeout=2)
        except (NatsError, OSError, asyncio.TimeoutError):
            with suppress(Exception):
                await client.force_reconnect()
            return False
        return True

    async def _wait_for_connection(self, timeout: float) -> None:
        give_up_at = asyncio.get_running_loop().time() + timeout
        while not self.client.is_connected:
            if self.client.is_closed or asyncio.get_running_loop().time() >= give_up_at:
                raise NobodyError(f"there is no connection to {self.where}")
            await asyncio.sleep(0.05)

    async def _answered(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting[2].done():
            waiting[2].set_result(message)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for _, until, future in self._waiting.values():
            if until <= now and not future.done():
                future.set_exception(LostError("no answer in time"))
        self._sweep = loop.call_later(_SWEEP, self._expire, loop) if self._waiting else None

    def _forget_waiting(self) -> None:
        for _, _, future in self._waiting.values():
            if not future.done():
                future.set_exception(LostError("the connection was lost"))

    # -- what nats-py tells -------------------------------------------------------------------

    async def _complain(self, error: Exception) -> None:
        if not self._inbox:  # not open yet
            self._complaints.append(error)
            self._complained.set()
            return
        if _is_refusal(error):
            if not self._is_refused:  # and tries again and again
                self._is_refused = True
                self._logger.error("%s", self._explain(error))
            return
        denied = _DENIED.search(str(error).lower())
        if denied is None:
            self._logger.debug("NATS: %s", error)
            return
        problem = BrokerError(
            f"The NATS server at {self.where} does not permit this user {denied[1]}: "
            "grant the permission, see the page on brokers in the docs"
        )
        self._logger.error("%s", problem)
        hears_nothing = denied[2].startswith(self._inbox.lower())
        if hears_nothing:
            self._denied = problem
        for subject, _, future in self._waiting.values():
            if (hears_nothing or subject.lower() == denied[2]) and not future.done():
                future.set_exception(problem)

    async def _disconnected(self) -> None:
        self._denied = None
        self._forget_waiting()
        if self._inbox and not self.client.is_closed:
            self._logger.warning("Lost the connection to NATS at %s; connecting anew", self.where)

    async def _closed(self) -> None:
        self._forget_waiting()
        if self._inbox:
            self._logger.critical(
                "The connection to NATS at %s is closed for good (%s); stop the queue and start it "
                "again",
                self.where,
                self.client.last_error,
            )

    async def _reconnected(self) -> None:
        self._is_refused = False
        url = self.client.connected_url
        self._logger.warning(
            "Connected to NATS again, at %s", bare_url(url.geturl() if url else "")
        )
        if self.on_reconnect is not None:
            self.on_reconnect()


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel until it has ended: before Python 3.12 ``wait_for`` may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain


def _is_refusal(error: Exception) -> bool:
    """Whether it means that the server does not let us in."""
    # When it connects nats-py has one error for all that a server says.
    return isinstance(error, AuthorizationError) or "authorization" in str(error).lower()


def check_servers(servers: Any) -> tuple[str, ...]:
    """URLs of servers, one or several.

    Raises:
        ValueError, TypeError: they are none.
    """
    urls = [servers] if isinstance(servers, str) else servers
    if not isinstance(urls, (list, tuple)) or not all(isinstance(url, str) for url in urls):
        raise TypeError(f"servers must be a URL or a list of URLs, got {type(servers).__name__}")
    if not urls:
        raise ValueError("servers must name at least one, got an empty list")
    for url in urls:
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            is_good = parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            is_good = False
        if not is_good:
            raise ValueError(f"servers must be like nats://host:4222, got {bare_url(url)!r}")
    return tuple(urls)


def check_options(options: Any) -> dict[str, Any]:
    """Arguments for ``nats.connect``, but for those that are ours."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping, got {type(options).__name__}")
    for name in ("servers", *_OURS):
        if name in options:
            raise ValueError(f"options must not have {name!r}: the queue has its own")
    allowed = inspect.signature(Client.connect).parameters
    for name in options:
        if name not in allowed:
            raise ValueError(f"options has {name!r}, which nats.connect does not know")
    return dict(options)


def bare_url(url: str) -> str:
    """A URL without what is secret."""
    scheme = _SCHEME.match(url)
    bare = url[scheme.end() :] if scheme else url
    return (scheme[0] if scheme else "") + bare.rpartition("@")[2]


def reading(answer: Msg) -> dict[str, Any]:
    """What JetStream answered.

    Raises:
        ApiError: it says no.
    """
    told: dict[str, Any] = json.loads(answer.data)
    if "error" in told:
        raise ApiError(told["error"])
    return told
