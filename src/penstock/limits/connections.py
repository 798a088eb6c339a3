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


@lru_cache(maxsize=256)
def _is_of_client(kind: type[BaseException]) -> bool:
    return any(
        f"{cls.__module__.partition('.')[0]}.{cls.__name__}" in _CLASSES for cls in kind.__mro__
    )


def _is_broken_by_system(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, _BROKEN):
        return True
    return isinstance(error, OSError) and error.errno in _ERRNOS
