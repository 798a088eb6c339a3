"""Runs the servers of docs/how-to/stopping.md, with the programs that the page shows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from pages import DOCS, blocks
from processes import HeldPort, wait_for

#: Seconds after which a test has failed.
LIMIT = 60.0
#: The mails that a test sends, and how many of them a queue of the page takes in hand at once.
ALL, AT_ONCE = {"a", "b", "c", "d", "e"}, 2

#: The functions that the programs of the page import, as ``mails``: they wait until the test lets
#: them go on. What queues say goes to the log of the server.
_SEND = """
import asyncio, logging, os, time
from pathlib import Path

OUTBOX = Path(os.environ["OUTBOX"])
logging.getLogger("penstock").addHandler(logging.StreamHandler())
logging.getLogger("penstock").setLevel(logging.INFO)

def begin(address):
    (OUTBOX / f"{address}.began").touch()

def end(address):
    (OUTBOX / f"{address}.sent").touch(exist_ok=False)
"""
PLAIN = f"""{_SEND}
def send(address):
    begin(address)
    while not (OUTBOX / "go").exists():
        time.sleep(0.02)
    end(address)
"""
ASYNC = f"""{_SEND}
async def send(address):
    begin(address)
    while not (OUTBOX / "go").exists():
        await asyncio.sleep(0.02)
    end(address)
"""

#: Without what the machine that runs the tests has set up for itself.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("CELERY", "GUNICORN", "OTEL_")) and "proxy" not in name.lower()
}


def served(name: str) -> str:
    """The file of this name, as the page shows it."""
    page = DOCS / "how-to/stopping.md"
    return next(block.code for block in blocks(page) if block.said("served:") == name)


def replaced(text: str, old: str, new: str) -> str:
    """The text with ``new`` in the place of ``old``, which must be there."""
    assert old in text, text
    return text.replace(old, new)


class Server:
    """A server in a process of its own, and its mails."""

    def __init__(self, folder: Path, command: list[str], port: int) -> None:
        self._outbox = folder / "outbox"
        self._outbox.mkdir()
        self._log = folder / "log"
        self._port = port
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT
        )
        self.folder = folder
        self.env = {**ENVIRONMENT, "OUTBOX": str(self._outbox), "PYTHONUNBUFFERED": "1"}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children end with it
            )

    def close(self) -> None:
        """End it the hard way, if it has not ended."""
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT)

    # -- what it says -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text(encoding="utf-8")

    def wait_until_said(self, words: str, times: int = 1) -> None:
        """Until the log has these words so many times."""

        def look() -> bool:
            has_ended = self.process.poll() is not None
            if self.log.count(words) >= times:
                return True
            assert not has_ended, f"it ended, and never said {words!r}:\n{self.log}"
            return False

        wait_for(f"the words {words!r}", look, timeout=LIMIT)

    def wait_until_it_listens(self) -> None:
        """Until somebody accepts connections."""

        def connect() -> bool:
            assert self.process.poll() is None, self.log
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return True
            return False

        wait_for("a server that listens", connect, timeout=LIMIT)

    # -- mails ------------------------------------------------------------------------------------

    def post(self) -> None:
        """Have it accept all mails, and wait until its queue has as many in hand as it takes."""
        for address in sorted(ALL):
            answer = self.client.post(f"/mails/{address}")
            assert answer.status_code == 202, self.log
        self.wait_until_in_hand()

    def wait_until_in_hand(self) -> None:
        """Until workers have mails, and the others wait."""
        wait_for("mails in hand", lambda: len(self._mails("began")) == AT_ONCE, timeout=LIMIT)

    def let_go(self) -> None:
        """Let the mails be sent."""
        (self._outbox / "go").touch()

    @property
    def sent(self) -> set[str]:
        """The mails that were sent."""
        return self._mails("sent")

    def _mails(self, what: str) -> set[str]:
        return {file.stem for file in self._outbox.glob(f"*.{what}")}

    # -- its end ----------------------------------------------------------------------------------

    def ask_to_end(self) -> None:
        """Send SIGTERM to the server's own process, and not to its children."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, when it has ended."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log}") from None


def write(folder: Path, files: dict[str, str]) -> None:
    """Put these files into the folder."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


@contextmanager
def serving(
    folder: Path, *command: str, files: dict[str, str], work: str = PLAIN
) -> Iterator[Server]:
    """Run a server in a folder with these files. ``PORT`` in the command becomes a free port."""
    write(folder, {"mails.py": work, **files})
    with HeldPort() as port:
        words = [word.replace("PORT", str(port.number)) for word in command]
        server = Server(folder, words, port.number)
        try:
            yield server
        finally:
            server.close()
