"""The connection to NATS: opening it with errors that say what to do, requests, reconnecting.

nats-py does the protocol and reconnects by itself. What is added here: a connection that cannot be
made ends in one clear error instead of an endless loop; a request that is refused for want of a
permission fails at once instead of timing out; and one whose connection was lost is told so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import Header

from penstock.brokers.nats.connection.addresses import bare_url
from penstock.brokers.nats.connection.connecting import (
    ConnectAttempt,
    close,
    end,
    explain,
    is_refusal,
)
from penstock.brokers.nats.connection.replies import (
    NoReplyError,
    NoRespondersError,
    PendingReplies,
    reading,
)
from penstock.errors import BrokerError, CodecError

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

#: Seconds that a server has to answer.
PATIENCE = 5.0
#: What is different from nats-py's defaults: a connection that is dead without a word is noticed
#: in half a minute, not in four, and reconnecting never ends.
_OPTIONS = {
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "reconnect_time_wait": 0.5,
    "max_reconnect_attempts": -1,
}
_DENIED = re.compile(r'permissions violation for ((?:publish|subscription) to "([^"]+)")')
_NO_RESPONDERS = "503"
#: Bytes of headers on the wire, beside names and values: the first and last line, and each.
_HEADER_LINES, _HEADER_MARKS = 14, 4


class Connection:
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
        self._attempt = ConnectAttempt(len(servers))
        self._inbox = ""
        # Why no answer will come: to hear them is not permitted.
        self._denied: BrokerError | None = None
        # Whether it was said that the credentials are good no more.
        self._is_refused = False
        self._replies = PendingReplies()
        #: Called when the connection is there again.
        self.on_reconnect: Callable[[], None] | None = None

    @property
    def client(self) -> Client:
        """The client of nats-py."""
        assert self._client is not None, "the connection is open"
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
        # Not the last ones, which may belong to a loop that is gone.
        self._attempt, self._replies = ConnectAttempt(len(self._servers)), PendingReplies()
        self._denied = None
        options = {**_OPTIONS, **self._options}
        connecting = asyncio.ensure_future(
            client.connect(
                servers=list(self._servers),
                error_cb=self._on_error,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._closed,
                **options,
            )
        )
        try:
            error = await self._attempt.failure(connecting)
            if error is not None:
                raise BrokerError(explain(error, self.where)) from error
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._replies.on_reply)
        except BaseException:
            self._inbox = ""
            await end(connecting)
            await close(client)
            raise

    async def close(self) -> None:
        """Send what waits to be sent, and disconnect."""
        client = self._client
        if client is None:
            return
        self._inbox = ""  # from here on nothing that it tells is news
        if client.is_connected:
            with suppress(NatsError, OSError, asyncio.TimeoutError):
                await client.flush(timeout=1)
        self._replies.lost()
        await close(client)

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
            NoReplyError: none came. Whether the request was heard nobody knows.
            NoRespondersError: nobody listens there, or there is no connection for so long.
            CodecError: it is too large; it was not sent.
            BrokerError: it is not permitted; it was not heard.
        """
        if self._denied is not None:
            raise self._denied
        client = self.client
        if not client.is_connected:  # or nats-py would keep it and send it later, unasked
            await self._wait_for_connection(timeout)
        self.check_size(payload, headers)
        replies = self._replies  # it may be another one when this ends
        number, future = replies.expect(subject, timeout)
        try:
            await client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers=headers)
            answer = await future
        except (NatsError, OSError) as error:
            raise NoReplyError(str(error)) from error
        finally:
            replies.drop(number)
        if answer.headers and answer.headers.get(Header.STATUS) == _NO_RESPONDERS:
            raise NoRespondersError(f"no responders on {subject}")
        return answer

    def check_size(self, payload: bytes, headers: dict[str, str] | None) -> None:
        """Raise ``CodecError`` for what the server would not take."""
        # Headers count too. nats-py does not know, and the server hangs up on who sends too much.
        size, largest = len(payload), self.client.max_payload
        if headers is not None:
            size += _HEADER_LINES
            for name, value in headers.items():
                size += len(name.encode()) + len(value.encode()) + _HEADER_MARKS
        if size > largest:
            raise CodecError(
                f"The item is {size} bytes with its headers, and the NATS server at {self.where} "
                f"accepts {largest}: make it smaller (put the name of a file, say), or raise "
                "max_payload in the server's configuration"
            )

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream's API, ``STREAM.INFO.name`` for example.

        Raises:
            ApiError: it says no.
            NoReplyError, NoRespondersError, BrokerError: as :meth:`request`.
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
                raise NoRespondersError(f"there is no connection to {self.where}")
            await asyncio.sleep(0.05)

    # -- what nats-py tells -------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        if not self._inbox:  # not open yet
            self._attempt.add_error(error)
            return
        if is_refusal(error):
            if not self._is_refused:  # and tries again and again
                self._is_refused = True
                self._logger.error("%s", explain(error, self.where))
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
        self._replies.fail(problem, lambda to: hears_nothing or to.lower() == denied[2])

    async def _disconnected(self) -> None:
        self._denied = None
        self._replies.lost()
        if self._inbox and not self.client.is_closed:
            self._logger.warning("Lost the connection to NATS at %s; connecting again", self.where)

    async def _closed(self) -> None:
        self._replies.lost()
        if self._inbox:
            self._logger.critical(
                "The connection to NATS at %s is closed, and stays closed (%s): stop the queue "
                "and start it again",
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
