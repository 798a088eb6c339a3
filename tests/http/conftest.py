"""Tests of the transports: with httpx and with httpx2, against a real server."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.http_server import Held, Server
from sync.helpers import eventually, queue_threads


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    """The package whose clients are used."""
    return pytest.importorskip(request.param)


@pytest.fixture
def ours(library: Any) -> Any:
    """Penstock's module for it."""
    return importlib.import_module(f"penstock.{library.__name__}")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


@pytest.fixture
def held(server: Server) -> Iterator[Held]:
    server.answer = held = Held()
    yield held
    held.may_go_on.set()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, the threads of its queues are gone after it."""
    before = set(threading.enumerate())
    yield
    if queue_threads() - before:
        gc.collect()
    eventually(lambda: not queue_threads() - before)
