"""A real PostgreSQL server that tests start, kill and restart. It refuses to run as root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from golang import MissingError
from processes import HeldPort, wait_for

#: Seconds that a server may take to start, to recover, and to stop.
START, STOP = 60.0, 60.0


def installed() -> Path:
    """The folder of the programs of the newest server that is installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda it: float(it.parts[-3])
    )
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program:
        return Path(program).resolve().parent
    raise MissingError("no PostgreSQL server (Debian: apt-get install postgresql)")


class PostgresServer:
    """A server on a port of this machine that is its own until it is closed.

    Args:
        programs: the folder of its programs.
        settings: of its configuration. It keeps its promises about the disk only if they say so.
    """

    def __init__(self, programs: Path, **settings: Any) -> None:
        self._programs = programs
        # Not pytest's folder: the server's user must be able to get there.
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
        self._data, self.log = self._folder / "data", self._folder / "log"
        self._held = HeldPort()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "port": self._held.number,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "off",
            "shared_buffers": "64MB",
            **settings,
        }
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self._folder, "nobody", "nogroup")

    @property
    def url(self) -> str:
        return f"postgresql://tests@127.0.0.1:{self._held.number}/postgres"

    @property
    def port(self) -> int:
        return self._held.number

    def make(self) -> None:
        """Make what it keeps its data in, once."""
        subprocess.run(
            [
                *(self._programs / "initdb", "-D", self._data, "-U", "tests", "-A", "trust"),
                *("--no-sync", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
            **self._user,
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                **self._user,
            )
        wait_for("PostgreSQL to be ready", self._answers, START, every=0.02)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended:\n{self.tail()}")
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """End all of it by SIGKILL, as a power cut would: nothing is written any more."""
        assert self._process is not None
        children = self._children()
        self._process.send_signal(signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP)

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(child) for child in told.split()]

    def close(self) -> None:
        """End it, and remove what it wrote."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # disconnects its clients
            try:
                self._process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.kill()
        self._held.close()
        if self.log.exists():
            sys.stdout.write(f"--- {self.log}\n{self.tail()}\n")
        shutil.rmtree(self._folder, ignore_errors=True)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-5000:]


@contextmanager
def running_postgres(programs: Path, **settings: Any) -> Iterator[PostgresServer]:
    """A server that runs within the block."""
    server = PostgresServer(programs, **settings)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.close()
