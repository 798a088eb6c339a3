"""What the tests of the queue on NATS have in common. Every wait has a bound."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors

from brokers.servers import NatsServer
from penstock.brokers.nats import NatsQueue
from processes import wait_for

#: Seconds after which something that should have happened has not.
BOUND = 30.0
#: How much later than promised something may happen, on a machine that does other things too. What
#: is not told at once comes by itself after ``ack_wait``, which is 30 s unless a test says less.
SLACK = 15.0

AnyQueue = NatsQueue[Any]

_PROGRAM = Path(__file__).with_name("program.py")


def show(*what: Any) -> None:
    """Write figures where pytest -rA shows them."""
    sys.stdout.write(" ".join(map(str, what)) + "\n")


@asynccontextmanager
async def plain_client(url: str, **options: Any) -> AsyncIterator[Any]:
    """A client of NATS that knows nothing of penstock."""
    client = await nats.connect(url, **options)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: Any, subject: str, request: Any = None) -> Any:
    """Ask JetStream's API."""
    payload = b"" if request is None else json.dumps(request).encode()
    return json.loads((await client.request(f"$JS.API.{subject}", payload, timeout=5)).data)


def messages(server: NatsServer, stream: str) -> int | None:
    """How many messages a stream has, as the server's monitoring tells; None: no answer."""
    told = server.monitor("/jsz?streams=true") or {}
    for account in told.get("account_details") or ():
        for detail in account.get("stream_detail") or ():
            if detail["name"] == stream:
                count: int = detail["state"]["messages"]
                return count
    return None


class Program:
    """One of the roles in program.py, in a process of its own, which notes what it does."""

    def __init__(self, folder: Path, role: str, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.notes")))
        self._file = folder / f"{number}-{role}.notes"
        self._errors = folder / f"{number}-{role}.errors"
        with self._file.open("wb") as notes, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", _PROGRAM, role, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=notes,
                stderr=errors,
            )

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        """What it did so far; a line that it was killed in does not count."""
        whole, _, _ = self._file.read_text(encoding="utf-8").rpartition("\n")
        notes = [json.loads(line) for line in whole.splitlines()]
        return [note for note in notes if what in (None, note["did"])]

    def items(self, what: str) -> list[Any]:
        """The items that it did this with."""
        return [note["item"] for note in self.notes(what)]

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._errors.read_text(encoding="utf-8")

    def until(self, condition: Callable[[Program], Any], timeout: float = BOUND) -> None:
        """Wait until something holds of it."""

        def ask() -> Any:
            answer = condition(self)
            assert answer or not self.is_over(), f"it is over:\n{self.errors}"
            return answer

        wait_for(f"what is expected of {self._file.name}", ask, timeout, every=0.01)

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def let_end(self) -> None:
        """Let it stop in an orderly manner."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, timeout: float = 2 * BOUND) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(BOUND)

    def close(self) -> None:
        if not self.is_over():
            self.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        sys.stdout.write(f"--- {self._errors.name}\n{self.errors[-5000:]}\n")


@contextmanager
def programs(folder: Path) -> Iterator[Callable[..., Program]]:
    """Start programs: ``start(role, **settings)``; they are ended with the block."""
    running: list[Program] = []

    def start(role: str, **settings: Any) -> Program:
        program = Program(folder, role, **settings)
        running.append(program)
        return program

    try:
        yield start
    finally:
        for program in running:
            program.close()
