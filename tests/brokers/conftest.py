"""Servers for the tests: one of a kind for all, and as many more as a test starts itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from brokers.build import built
from brokers.postgres.server import PostgresServer, installed, running_postgres
from brokers.servers import Cluster, NatsServer, packaged, running
from golang import MissingError
from penstock.brokers.postgres import init


@pytest.fixture(scope="session")
def nats_program() -> Path:
    """A server for single nodes. In CI there must be one."""
    try:
        return packaged()
    except MissingError as missing:
        reason = f"no nats-server (Debian: apt-get install nats-server; or {missing})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def newer_nats_program() -> Path:
    """A server for clusters."""
    try:
        return built()
    except MissingError as missing:
        pytest.skip(f"no nats-server that is new enough for clusters: {missing}")


@pytest.fixture(scope="session", params=["packaged", "newer"])
def each_nats_program(request: pytest.FixtureRequest) -> Path:
    """One after the other."""
    name = {"packaged": "nats_program", "newer": "newer_nats_program"}[request.param]
    program: Path = request.getfixturevalue(name)
    return program


@pytest.fixture(scope="session")
def nats_server(
    nats_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NatsServer]:
    """A server for all tests that do it no harm; each uses names of its own there."""
    with running(NatsServer(tmp_path_factory.mktemp("nats"), nats_program)) as server:
        yield server


@pytest.fixture
def start_nats(nats_program: Path, tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Start a server of the test's own: ``start_nats(**settings)``, as for ``NatsServer``."""
    with ExitStack() as cleanup:
        count = 0

        def start(program: Path = nats_program, **settings: Any) -> NatsServer:
            nonlocal count
            count += 1
            folder = tmp_path / f"nats{count}"
            server: NatsServer = cleanup.enter_context(
                running(NatsServer(folder, program, **settings))
            )
            return server

        yield start


@pytest.fixture
def start_cluster(newer_nats_program: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of the test's own: ``start_cluster(**settings)``, as for ``Cluster``."""
    with ExitStack() as cleanup:

        def start(**settings: Any) -> Cluster:
            folder = tmp_path / "cluster"
            cluster: Cluster = cleanup.enter_context(
                running(Cluster(folder, program=newer_nats_program, **settings))
            )
            return cluster

        yield start


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The programs of a PostgreSQL server. In CI there must be one."""
    try:
        return installed()
    except MissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def postgres_server(postgres_programs: Path) -> Iterator[PostgresServer]:
    """A server for all tests that do it no harm; each uses a schema or queues of its own there."""
    with running_postgres(postgres_programs) as server:
        with ThreadPoolExecutor() as thread:  # here an event loop may run
            thread.submit(asyncio.run, init(server.url)).result()
        yield server
