"""``penstock queue``: what people see of a queue on NATS is what is there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from brokers.servers import NatsServer
from cli.conftest import ENVIRONMENT, Command
from penstock.brokers.nats import NatsQueue
from penstock.cli.app import run_command

pytestmark = [pytest.mark.slow, pytest.mark.real_time]


@asynccontextmanager
async def busy_queue(server: NatsServer, name: str) -> AsyncIterator[NatsQueue[Any]]:
    """Five accepted, two refused; one is in hand, one a dead letter, three wait."""
    is_held, has_died, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(item: int) -> None:
        if item == 0:
            raise ValueError("no \x1b[31mred\x1b[0m")
        is_held.set()
        await go_on.wait()

    async with NatsQueue[Any](server.url, name, 5) as queue:
        assert [await queue.put(number, timeout=0) for number in range(7)] == [True] * 5 + [
            False
        ] * 2
        await queue.start_workers(work, 1, lambda error, item: has_died.set())
        await asyncio.wait_for(asyncio.gather(is_held.wait(), has_died.wait()), 60)
        while (await queue.info()).dead_letters == 0:  # noqa: ASYNC110 - the server hears it later
            await asyncio.sleep(0.02)
        yield queue
        go_on.set()


async def look(*arguments: str) -> tuple[int, str]:
    """Run the command while the loop goes on; its exit code, and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.cli", "queue", *arguments),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_it_tells_what_the_server_and_what_the_processes_know(
    nats_server: NatsServer,
) -> None:
    async with busy_queue(nats_server, "told"):
        code, line = await look("told", "--nats", nats_server.url)
        assert (code, line) == (
            0,
            (
                "told: 4 of 5 (3 waiting, 1 in flight), 2 refused, 0 redelivered, 1 dead letters, "
                "1 workers (0 idle), 1 processes, 1 replicas\n"
            ),
        )
        code, line = await look("told", "--nats", nats_server.url, "--json")
    assert code == 0
    told = json.loads(line)
    assert told["processes"][0].pop("host")
    assert told.pop("bytes") > 0
    assert told == {
        "name": "told",
        "size": 4,
        "maxsize": 5,
        "waiting": 3,
        "in_flight": 1,
        "redelivered": 0,
        "refused": 2,
        "dead_letters": 1,
        "is_paused": False,
        "replicas": 1,
        "idle_workers": 0,
        "processes": [
            {
                "pid": os.getpid(),
                "accepted": 5,
                "refused": 2,
                "processed": 1,
                "errors": 1,
                "in_flight": 1,
                "workers": 1,
            }
        ],
    }


async def test_dead_letters_are_shown_with_their_reasons_and_put_back(
    nats_server: NatsServer,
) -> None:
    async with busy_queue(nats_server, "dead") as queue:
        where = ["dead", "--nats", nats_server.url]
        code, out = await look(*where, "--dead-letters", "10")
        assert (code, out) == (
            0,
            # What would turn the terminal red is shown instead of done.
            "1. delivered once, ValueError: no \\x1b[31mred\\x1b[0m\n    0\n",
        )
        code, out = await look(*where, "--dead-letters", "1", "--json")
        assert json.loads(out) == {
            "number": 1,
            "deliveries": 1,
            "error_type": "ValueError",
            "error": "no \x1b[31mred\x1b[0m",
            "item": 0,
        }
        code, out = await look(*where, "--redrive")
        assert (code, out) == (0, "put back 1, 0 dead letters are left\n")
        assert (await queue.info()).size == 5


async def test_what_finds_no_room_stays_a_dead_letter(nats_server: NatsServer) -> None:
    async with busy_queue(nats_server, "no_room") as queue:
        assert await queue.put(8, 0)
        code, out = await look("no_room", "--nats", nats_server.url, "--redrive", "--timeout", "0")
        assert (code, out) == (1, "put back 0, 1 dead letters are left\n")


def test_a_queue_that_is_not_there_is_told_and_not_made(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run_command(["queue", "mistyped2", "--nats", nats_server.url]) == 4
        assert capsys.readouterr().err == "penstock: there is no queue mistyped2 on the server\n"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--dead-letters", "0"], "--dead-letters must be at least 1, got 0"),
        (["--redrive", "--timeout", "-1"], "--timeout must be 0 seconds or more, got -1"),
    ],
)
def test_wrong_usage_is_told(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["queue", "q", "--nats", "nats://127.0.0.1:9", *options]) == 2
    assert capsys.readouterr().err == f"penstock: {problem}\n"


class Screen:
    """What a process writes to a terminal."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.text = ""

    def wait_for(self, pattern: str) -> None:
        """Read on until what comes from here on matches."""
        self.text = ""
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern} is not in {self.text}"
            if select.select([self._end], [], [], left)[0]:
                self.text += os.read(self._end, 65536).decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_on_a_terminal_a_table_is_renewed_until_a_signal(
    number: signal.Signals, code: int, penstock: Command, nats_server: NatsServer
) -> None:
    pty = pytest.importorskip("pty")
    name = f"table{code}"

    async def put(item: int) -> None:
        async with NatsQueue[Any](nats_server.url, name, 5) as queue:
            assert await queue.put(item)

    asyncio.run(put(1))
    ours, theirs = pty.openpty()
    try:
        command = ["queue", name, "--nats", nats_server.url]
        with penstock.started(*command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            screen = Screen(ours)
            screen.wait_for(r"dead letters")
            screen.wait_for(r" 1 / 5 ")
            asyncio.run(put(2))
            screen.wait_for(r" 2 / 5 ")
            process.send_signal(number)
            assert process.wait(90) == code
            screen.wait_for(r"\x1b\[\?25h")  # the cursor is back
    finally:
        os.close(ours)
        os.close(theirs)
