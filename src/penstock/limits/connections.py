"""Errors of clients that had no answer: no connection, a broken one, or a timeout."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from functools import lru_cache
from typing import Any

from penstock.limits.error_response import unwrapped

#: Errors of the system, and of asyncio, where that has its own.
_BROKEN_SYSTEM = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)
_BROKEN_WAITS = (asyncio.TimeoutError, asyncio.IncompleteReadError)
_ERRNOS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
#: Errors of clients, by package and class: those, and their subclasses.
_CLASSES = frozenset(
    {
        "aiohttp.ClientConnectionError",
        "aiohttp.ClientPayloadError",
        "anthropic.APIConnectionError",
        "botocore.ConnectionError",
        "botocore.HTTPClientError",
        "httpx.NetworkError",
        "httpx.ProxyError",
        "httpx.RemoteProtocolError",
        "httpx.TimeoutException",
        "httpx2.NetworkError",
        "httpx2.ProxyError",
        "httpx2.RemoteProtocolError",
        "httpx2.TimeoutException",
        "openai.APIConnectionError",
        "requests.ChunkedEncodingError",
        "requests.ConnectionError",
        "requests.Timeout",
        "smtplib.SMTPServerDisconnected",
        "stripe.APIConnectionError",
        "urllib3.ProtocolError",
        "urllib3.TimeoutError",
        "urllib3.MaxRetryError",
    }
)


#: Those of them that are raised before anything is sent: while a connection is made, or waited for.
_UNSENT_CLASSES = frozenset(
    {
        "aiohttp.ClientConnectorError",
        "aiohttp.ConnectionTimeoutError",
        "botocore.ConnectTimeoutError",
        "botocore.EndpointConnectionError",
        "botocore.ProxyConnectionError",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "httpx.ProxyError",
        "httpx2.ConnectError",
        "httpx2.ConnectTimeout",
        "httpx2.PoolTimeout",
        "httpx2.ProxyError",
        "requests.ConnectTimeout",
        "urllib3.ConnectTimeoutError",
        "urllib3.NewConnectionError",
        "urllib3.ProxyError",
    }
)
#: Errors of Python's own, and of the system, that come of making a connection alone. (A timeout may
#: be one of reading.)
_UNSENT = (ConnectionRefusedError, socket.gaierror)
_UNSENT_ERRNOS = _ERRNOS - {errno.ENETRESET, errno.ETIMEDOUT}

#: How many errors are looked at that are inside of each other.
_DEEPEST = 8


def is_broken(error: BaseException) -> bool:
    """Whether ``error`` says that the service could not be reached, or did not answer in time."""
    if isinstance(error, OSError):
        if _is_broken_by_system(error):
            return True
        reason = getattr(error, "reason", None)
        if isinstance(reason, OSError):  # urllib's URLError
            return _is_broken_by_system(reason)
    return isinstance(error, _BROKEN_WAITS) or _is_of_client(error, _CLASSES)


def is_unsent(error: BaseException) -> bool:
    """Whether it is certain that nothing was sent to the service: there was no connection.

    Then a call can be repeated that must not be made twice. A client's error counts if what it was
    made of does: its cause, or the reason that urllib3 and urllib keep in it.
    """
    error = unwrapped(error)
    current: BaseException | None = error if is_broken(error) else None
    for _ in range(_DEEPEST):
        if current is None:
            break
        if isinstance(current, _UNSENT) or _is_of_client(current, _UNSENT_CLASSES):
            return True
        if isinstance(current, OSError) and current.errno in _UNSENT_ERRNOS:
            return True
        current = _made_of(current)
    return False


def _made_of(error: BaseException) -> BaseException | None:
    """The error inside of another one, if there is one."""
    try:
        inside = (
            getattr(error, "reason", None),  # URLError, MaxRetryError
            *error.args[:1],  # requests' ConnectionError
            error.__cause__,
        )
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None
    return next((each for each in inside if isinstance(each, BaseException)), None)


def _is_of_client(error: BaseException, names: frozenset[str]) -> bool:
    try:
        kind: Any = type(error)
        return not names.isdisjoint(_names_of(kind))
    except TypeError:  # a class that cannot be hashed
        return False


@lru_cache(maxsize=256)
def _names_of(kind: type[BaseException]) -> frozenset[str]:
    """By package and class, those of its bases too."""
    return frozenset(f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in kind.__mro__)


def _is_broken_by_system(error: OSError) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    return isinstance(error, _BROKEN_SYSTEM) or error.errno in _ERRNOS
