"""Errors of clients that had no answer: no connection, a broken one, or a timeout."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from functools import lru_cache
from typing import Any

#: Errors of Python's own.
_BROKEN = (
    ConnectionError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    socket.gaierror,
    ssl.SSLError,
)
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
        "stripe.APIConnectionError",
        "urllib3.ProtocolError",
        "urllib3.TimeoutError",
        "urllib3.MaxRetryError",
    }
)
#: Those of them that come before anything is sent.
_UNSENT_CLASSES = frozenset(
    {
        "aiohttp.ClientConnectorError",
        "aiohttp.ConnectionTimeoutError",
        "botocore.ConnectTimeoutError",
        "botocore.EndpointConnectionError",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "httpx2.ConnectError",
        "httpx2.ConnectTimeout",
        "httpx2.PoolTimeout",
        "requests.ConnectTimeout",
        "urllib3.ConnectTimeoutError",
        "urllib3.NewConnectionError",
    }
)
_UNSENT = (ConnectionRefusedError, socket.gaierror)
_UNSENT_ERRNOS = frozenset({errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH})
#: How deep an error is looked for in others: requests has urllib3's as an argument, and that has
#: the reason; SDKs have the client's as the cause.
_DEEPEST = 4


def is_broken(error: BaseException) -> bool:
    """Whether ``error`` says that the service could not be reached, or did not answer in time."""
    if _is_broken_by_system(error):
        return True
    reason = getattr(error, "reason", None) if isinstance(error, OSError) else None
    if isinstance(reason, OSError):  # urllib's URLError
        return _is_broken_by_system(reason)
    try:
        kind: Any = type(error)
        return _is_of_client(kind)
    except TypeError:  # a class that cannot be hashed
        return False


def was_never_sent(error: BaseException) -> bool:
    """Whether ``error`` says that nothing reached the service: there was no connection."""
    found: BaseException | None = error
    for _ in range(_DEEPEST):
        if found is None:
            return False
        if _says_unsent(found):
            return True
        found = _inner(found)
    return False


def _says_unsent(error: BaseException) -> bool:
    if isinstance(error, _UNSENT):
        return True
    if isinstance(error, OSError) and error.errno in _UNSENT_ERRNOS:
        return True
    try:
        kind: Any = type(error)
        return _is_unsent_of_client(kind)
    except TypeError:
        return False


def _inner(error: BaseException) -> BaseException | None:
    """The error that this one was made of."""
    reason = getattr(error, "reason", None)  # urllib, urllib3
    first = error.args[0] if error.args else None  # requests
    return next(
        (each for each in (reason, first, error.__cause__) if isinstance(each, BaseException)), None
    )


@lru_cache(maxsize=256)
def _is_of_client(kind: type[BaseException]) -> bool:
    return not _CLASSES.isdisjoint(_names(kind))


@lru_cache(maxsize=256)
def _is_unsent_of_client(kind: type[BaseException]) -> bool:
    return not _UNSENT_CLASSES.isdisjoint(_names(kind))


def _names(kind: type[BaseException]) -> list[str]:
    return [f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in kind.__mro__]


def _is_broken_by_system(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, _BROKEN):
        return True
    return isinstance(error, OSError) and error.errno in _ERRNOS
