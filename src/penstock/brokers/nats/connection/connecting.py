"""Connecting to NATS, so that what is wrong ends in one clear error instead of an endless loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import AuthorizationError


class ConnectAttempt:
    """One connection that is to be made.

    nats-py tries its servers in turn, without end where reconnecting is to have none. Once each is
    enough to know that something is wrong.

    Args:
        servers: how many there are.
    """

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._errors: list[Exception] = []
        self._has_error = asyncio.Event()

    def add_error(self, error: Exception) -> None:
        """nats-py says what went wrong with one server."""
        self._errors.append(error)
        self._has_error.set()

    async def failure(self, connecting: asyncio.Future[None]) -> Exception | None:
        """Wait until it is connected (None), or it is known that it will not be: why."""
        while True:
            self._has_error.clear()
            news: asyncio.Future[Any] = asyncio.ensure_future(self._has_error.wait())
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
            last, count = self._errors[-1], self._servers
            # Who is not let in may be cut off before the reason arrives: ask again.
            clear = [one for one in self._errors if not isinstance(one, ConnectionResetError)]
            if is_refusal(last) or len(clear) >= count or len(self._errors) >= 3 * count:
                return last


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel until it has ended: before Python 3.12 ``wait_for`` may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain


async def close(client: Client) -> None:
    """Close it, and have it connect no more."""
    with suppress(Exception):
        await client.close()
    # Where the cancellation is swallowed, it goes on to connect for ever, and so long would
    # asyncio.run() wait for it at its end.
    reconnecting = getattr(client, "_reconnection_task", None)
    if reconnecting is not None and reconnecting is not asyncio.current_task():
        await end(reconnecting)
    if not client.is_closed:
        with suppress(Exception):
            await client.close()


def is_refusal(error: Exception) -> bool:
    """Whether it means that the server does not let us in."""
    # When it connects nats-py has one error for all that a server says.
    return isinstance(error, AuthorizationError) or "authorization" in str(error).lower()


def explain(error: Exception, where: str) -> str:
    """Why there is no connection to the servers at ``where``, and what to do."""
    # Who is not let in may be cut off before the reason arrives.
    if is_refusal(error) or isinstance(error, ConnectionResetError):
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
