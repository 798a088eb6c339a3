"""What errors without an answer say: was the service reached, and was anything sent?"""

from __future__ import annotations

import errno
import socket
import urllib.error
from typing import Any

import pytest

from penstock.limits.connections import is_broken, is_unsent


def of_package(package: str, name: str, *args: Any, base: type[Exception] = Exception) -> Exception:
    """An error as that package has it, by its name."""
    error: Exception = type(name, (base,), {"__module__": f"{package}.some.module"})(*args)
    return error


def caused_by(cause: BaseException, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def with_reason(reason: Exception) -> Exception:
    error = of_package("urllib3", "MaxRetryError", "too many")
    error.reason = reason  # type: ignore[attr-defined]
    return error


NOT_CONNECTED = of_package("urllib3", "NewConnectionError", "refused")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        socket.gaierror(socket.EAI_NONAME, "unknown"),
        OSError(errno.EHOSTUNREACH, "no route"),
        urllib.error.URLError(ConnectionRefusedError()),
        of_package("httpx", "ConnectTimeout", base=TimeoutError),
        of_package("httpx2", "PoolTimeout", base=TimeoutError),
        of_package("aiohttp", "ClientConnectorDNSError", base=ConnectionRefusedError),
        with_reason(NOT_CONNECTED),
        of_package("requests", "ConnectionError", with_reason(NOT_CONNECTED), base=OSError),
        caused_by(
            of_package("httpx", "ConnectError"), of_package("openai", "APIConnectionError", "away")
        ),
    ],
    ids=repr,
)
def test_nothing_was_sent(error: Exception) -> None:
    assert is_broken(error)
    assert is_unsent(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.ETIMEDOUT, "timed out"),
        of_package("httpx", "ReadTimeout"),
        with_reason(of_package("urllib3", "ReadTimeoutError")),
        caused_by(ConnectionResetError(), of_package("openai", "APIConnectionError", "away")),
    ],
    ids=repr,
)
def test_it_may_have_been_sent(error: Exception) -> None:
    assert not is_unsent(error)


def test_what_another_error_was_made_of_says_nothing_of_the_call() -> None:
    assert not is_unsent(caused_by(ConnectionRefusedError(), ValueError("the cache is away")))
    assert not is_unsent(KeyError(ConnectionRefusedError()))


class OddError(ConnectionError):
    @property
    def reason(self) -> Any:
        raise LookupError


def test_an_error_whose_attributes_raise() -> None:
    assert not is_unsent(OddError())
