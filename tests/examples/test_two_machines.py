"""Two workers and a producer around a real NATS server: one is killed, and nothing is lost."""

from __future__ import annotations

import os
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

# The servers of those tests.
from brokers.conftest import nats_program, start_nats  # noqa: F401
from processes import wait_for

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples" / "two_machines"
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error"}


class Machines:
    """Starts the programs of the example, as processes; they are gone at the end."""

    def __init__(self, folder: Path, url: str, cleanup: ExitStack) -> None:
        self._folder, self._url, self._cleanup = folder, url, cleanup

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / program), *arguments],
            cwd=self._folder,  # it does not matter where it is started
            env={**ENVIRONMENT, "NATS_URL": self._url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._cleanup.enter_context(process)
        self._cleanup.callback(process.kill)
        return process

    def worker(self) -> subprocess.Popen[str]:
        """One that is ready."""
        process = self.start("worker.py", "ledger")
        assert process.stdout is not None
        assert process.stdout.readline() == f"worker {process.pid} is ready\n"
        return process

    def times(self) -> dict[int, int]:
        """How many times each call was made."""
        path = self._folder / "ledger"
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            try:
                return dict(connection.execute("SELECT id, times FROM calls"))
            except sqlite3.OperationalError:  # it was made this moment
                return {}


@pytest.fixture
def machines(start_nats: Any, tmp_path: Path) -> Iterator[Machines]:  # noqa: F811
    with ExitStack() as cleanup:
        yield Machines(tmp_path, start_nats().url, cleanup)


def test_a_worker_is_killed_and_every_call_is_made(machines: Machines) -> None:
    first, second = machines.worker(), machines.worker()
    producer = machines.start("producer.py", "120")
    wait_for("some calls", lambda: len(machines.times()) >= 20, 60)
    first.send_signal(signal.SIGKILL)
    out, _ = producer.communicate(timeout=90)
    assert (producer.returncode, out) == (0, "accepted 50\naccepted 100\nall 120 are done\n")

    second.terminate()
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 0
    made = re.fullmatch(rf"worker {second.pid} made (\d+) calls\n", said)
    assert made is not None, said
    times = machines.times()
    assert sorted(times) == list(range(1, 121))
    # Twice at most what the dead one had in hand.
    assert sum(times.values()) <= 124
    assert 0 < int(made[1]) < 120


def test_a_worker_that_is_told_to_stop_leaves_the_rest_to_the_other(machines: Machines) -> None:
    first, second = machines.worker(), machines.worker()
    producer = machines.start("producer.py", "60")
    wait_for("some calls", lambda: len(machines.times()) >= 8, 60)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == 0
    producer.communicate(timeout=60)
    assert producer.returncode == 0
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)
    assert second.returncode == 0
    assert machines.times() == dict.fromkeys(range(1, 61), 1)


def test_the_whole_story_runs_by_itself(nats_program: Path, tmp_path: Path) -> None:  # noqa: F811
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PENSTOCK_NATS_SERVER": str(nats_program)},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "\n200 of 200 calls were made" in done.stdout
    assert done.stderr == ""


def test_without_a_server_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PENSTOCK_NATS_SERVER", raising=False)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    story = runpy.run_path(str(FOLDER / "run.py"))
    assert story["main"]() == 0
    assert capsys.readouterr().out.startswith("skipped: there is no nats-server here")
