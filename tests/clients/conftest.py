"""Tests with the clients of others, as they are installed: what their errors look like."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.http_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A service on the loopback interface, which no client asks a proxy for."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    with Server().serving() as server:
        yield server
