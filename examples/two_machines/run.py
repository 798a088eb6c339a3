"""The whole story by itself: a NATS server, a producer, two workers, and one of them is killed.

It looks for ``nats-server`` in PATH (and in /usr/sbin, where Debian has it), or takes the program
that PENSTOCK_NATS_SERVER names. Without one it says so and does nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parent
COUNT = 200
#: Seconds that each step may take.
PATIENCE = 45.0


def nats_server() -> str | None:
    """The program, if there is one."""
    named = os.environ.get("PENSTOCK_NATS_SERVER")
    return named or shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")


@contextmanager
def running(*command: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end."""
    process: subprocess.Popen[str] = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: str, ask: Callable[[], T]) -> T:
    """Ask until the answer is true, and return it."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > give_up_at:
            raise SystemExit(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.05)


@contextmanager
def nats(program: str, folder: str) -> Iterator[str]:
    """A NATS server; gives its address. It chooses a free port, and writes down which one."""
    command = (program, "-js", "-a", "127.0.0.1", "-sd", folder, "-l", f"{folder}/log")

    def address() -> str:
        for file in Path(folder).glob("*.ports"):
            with suppress(ValueError):  # not all of it is written yet
                url: str = json.loads(file.read_text())["nats"][0]
                return url
        return ""

    with running(*command, "-p", "-1", "--ports_file_dir", folder):
        yield wait_for("the server", address)


def times(ledger: Path) -> list[int]:
    """How many times each call was made, of those that were."""
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as connection:
            return [row[0] for row in connection.execute("SELECT times FROM calls")]
    except sqlite3.OperationalError:  # no file, or no table yet
        return []


def main() -> int:
    """0 if every call was made."""
    program = nats_server()
    if program is None:
        print("skipped: there is no nats-server here (Debian: apt-get install nats-server)")
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ledger = Path(folder) / "ledger.sqlite"
        worker = (sys.executable, str(FOLDER / "worker.py"), str(ledger))
        with ExitStack() as processes:
            start = processes.enter_context
            environment = {**os.environ, "NATS_URL": start(nats(program, folder))}
            first, second = (start(running(*worker, env=environment)) for _ in range(2))
            producer = (sys.executable, str(FOLDER / "producer.py"), str(COUNT))
            with running(*producer, env=environment) as process:
                wait_for("a quarter", lambda: len(times(ledger)) >= COUNT // 4)
                print(f"kill -9 {first.pid}, with {len(times(ledger))} calls made", flush=True)
                first.kill()
                wait_for("the producer's end", lambda: process.poll() is not None)
            second.terminate()
            second.wait(PATIENCE)
        made = times(ledger)
    twice = sum(count > 1 for count in made)
    print(f"{len(made)} of {COUNT} calls were made, {twice} of them more than once")
    return 0 if (len(made), process.returncode, second.returncode) == (COUNT, 0, 0) else 1


if __name__ == "__main__":
    raise SystemExit(main())
