"""Servers that a benchmark runs against: on a port of their own, with a store that goes as well."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Where one may say which NATS server it shall be.
NATS_SERVER = "PENSTOCK_NATS_SERVER"
#: Seconds that a server may take to start, and to stop.
START, STOP = 30.0, 15.0


def find_nats() -> str | None:
    """The program of the NATS server: the one that the environment names, or one in a usual place.

    Raises:
        SystemExit: the one that it names is not there.
    """
    named = os.environ.get(NATS_SERVER)
    if named and not os.access(named, os.X_OK):
        raise SystemExit(f"{NATS_SERVER} names no program: {named}")
    return named or _find("nats-server")


def find_redis() -> str | None:
    """The program of the Redis server, if there is one."""
    return _find("redis-server")


def find_postgres() -> Path | None:
    """The folder of the programs of a PostgreSQL server, if there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda it: it.parts[-3])
    named = shutil.which("initdb")
    if named and not found:
        return Path(named).resolve().parent
    return found[-1].parent if found else None


def _find(program: str) -> str | None:
    # Debian has servers where only root looks.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


@contextmanager
def nats(program: str) -> Iterator[str]:
    """Run a NATS server with JetStream, set up as it comes; gives its URL."""
    with _running(
        lambda port, folder: [program, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", folder]
    ) as port:
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def redis(program: str) -> Iterator[str]:
    """Run a Redis server that writes down each change, and sees every second that it is on disk."""
    lasting = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    with _running(
        lambda port, folder: [
            *(program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
            *lasting,
        ]
    ) as port:
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a PostgreSQL server, set up as it comes; gives the URL of a database."""

    def command(port: int, folder: str) -> list[str]:
        data = f"{folder}/data"
        made = [str(programs / "initdb"), "-D", data, "-U", "bench", "-A", "trust"]
        as_nobody: list[str] = []
        if os.getuid() == 0:  # which it refuses
            shutil.chown(folder, "nobody", "nogroup")
            as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        subprocess.run([*as_nobody, *made], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        options = ("-h", "127.0.0.1", "-k", "", "-p", str(port), "-c", "max_connections=200")
        return [*as_nobody, str(programs / "postgres"), "-D", data, *options]

    with _running(command) as port:
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"


@contextmanager
def _running(command: Callable[[int, str], list[str]]) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, _held_port() as port:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port, folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            _wait_for(process, port, log)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _held_port() -> Iterator[int]:
    """A port that the server can have and nobody else is given: see HeldPort in tests/."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        if sys.platform != "linux":
            held.close()
        yield port


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + START
    while time.monotonic() < give_up_at and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text(errors='replace')}")
