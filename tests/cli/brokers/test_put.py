"""``penstock put``: a file's lines as items, none lost, none doubled, and the count is right."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brokers.servers import NatsServer
from cli.conftest import Command
from penstock.brokers.nats import NatsQueue
from penstock.cli.app import run_command
from processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Put lines, given as bytes, here; the exit code, and what it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(lines: bytes, server: NatsServer, queue: str, *options: str) -> tuple[int, str, str]:
        Path("items.jsonl").write_bytes(lines)
        command = ["put", "items.jsonl", "--nats", server.url, "--queue", queue]
        code = run_command([*command, *options])
        return code, *capsys.readouterr()

    return run


def items(server: NatsServer, name: str, maxsize: int = 100) -> list[Any]:
    """Take all that is in a queue, in its order."""

    async def take() -> list[Any]:
        taken = []
        async with NatsQueue[Any](server.url, name, maxsize) as queue:
            for _ in range((await queue.info()).size):
                taken.append(await queue.get(10))
                queue.task_done()
        return taken

    return asyncio.run(take())


def size(server: NatsServer, name: str) -> int:
    async def look() -> int:
        async with NatsQueue[Any](server.url, name, 2) as queue:
            return (await queue.info()).size

    return asyncio.run(look())


@pytest.mark.usefixtures("no_thread_is_left")
def test_each_line_is_an_item_in_its_order(run: Run, nats_server: NatsServer) -> None:
    lines = '\ufeff{"a": 1}\n\n  \r\n[2, "ü"]\r\n3.5\nnull\n"five"\ntrue'.encode()
    code, out, _ = run(lines, nats_server, "lines")
    assert (code, out) == (0, "accepted     6 items\nrefused      0\n")
    assert items(nats_server, "lines") == [{"a": 1}, [2, "ü"], 3.5, None, "five", True]


def test_malformed_lines_are_told_by_number_and_the_rest_goes_on(
    run: Run, nats_server: NatsServer
) -> None:
    with pytest.raises(ValueError, match="Out of range") as no_number:  # as this Python words it
        json.dumps(math.nan, allow_nan=False)
    lines = b'1\nnope\n\n"\xff"\nNaN\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n2\n"
    code, out, told = run(lines, nats_server, "malformed")
    assert (code, out) == (1, "accepted     2 items\nrefused      5\n")
    assert told.splitlines()[1:] == [
        "line 2: not JSON: Expecting value at column 1",
        "line 4: not UTF-8: byte 2 is wrong",
        f"line 5: A float cannot be encoded as application/json: {no_number.value}",
        "line 6: not readable JSON: nested too deeply",
        "line 7: not readable JSON: a number is too long",
    ]
    assert items(nats_server, "malformed") == [1, 2]


def test_a_line_that_is_too_large_is_refused(run: Run, nats_server: NatsServer) -> None:
    text = b'"' + b"x" * 2_000_000 + b'"\n'
    huge = b'"' + b"x" * (17 * 2**20) + b'"\n'
    code, out, told = run(b"1\n" + text + huge + b"4\n", nats_server, "large")
    assert (code, out) == (1, "accepted     2 items\nrefused      2\n")
    assert re.search(r"^line 2: The item is 20000\d\d bytes", told, re.MULTILINE)
    assert "line 3: longer than 16 MiB\n" in told
    assert items(nats_server, "large") == [1, 4]


def test_without_room_it_stops_and_says_where_to_go_on(run: Run, nats_server: NatsServer) -> None:
    lines = b"1\n\n2\n3\n4\n"
    code, out, told = run(lines, nats_server, "full", "--maxsize", "2", "--timeout", "0.05")
    assert code == 1
    assert out == (
        "accepted     2 items\nrefused      0\nstopped      after line 3; to continue: --skip 3\n"
    )
    assert told.endswith("penstock: line 4: no room in 0.05 s\n")
    assert items(nats_server, "full", 2) == [1, 2]

    code, out, told = run(lines, nats_server, "full", "--skip", "3")
    assert (code, out, told) == (0, "accepted     2 items\nrefused      0\n", "")
    assert items(nats_server, "full", 2) == [3, 4]


def test_wrong_usage_is_told(run: Run, nats_server: NatsServer, tmp_path: Path) -> None:
    assert run(b"", nats_server, "q", "--skip", "-1")[::2] == (
        2,
        "penstock: --skip must be at least 0, got -1\n",
    )
    assert run(b"", nats_server, "q", "--timeout", "nan")[::2] == (
        2,
        "penstock: --timeout must be 0 seconds or more, got nan\n",
    )


def test_a_file_that_is_not_there_is_told(penstock: Command, nats_server: NatsServer) -> None:
    done = penstock.run("put", "none", "--nats", nats_server.url, "--queue", "q")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "penstock: cannot read none: No such file or directory\n",
    )


def test_standard_input_is_put_as_it_comes_and_a_signal_ends_it(
    penstock: Command, nats_server: NatsServer
) -> None:
    """Nobody closes the pipe: it must not wait for its next line."""
    command = ["put", "-", "--nats", nats_server.url, "--queue", "piped", "--maxsize", "2"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with penstock.started(*command, **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n")
        process.stdin.flush()
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"penstock: created queue piped")
        wait_for("two items", lambda: size(nats_server, "piped") == 2)
        process.send_signal(signal.SIGTERM)
        out, told = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
        assert process.wait(90) == 143
    assert out.decode() == (
        "accepted     2 items\nrefused      0\nstopped      after line 2; to continue: --skip 2\n"
    )
    assert told.decode() == "penstock: interrupted\n"


def test_interrupted_while_it_waits_for_room_it_knows_that_the_line_is_not_in(
    penstock: Command, nats_server: NatsServer
) -> None:
    penstock.lines(1, 2, 3, name="items.jsonl")
    command = ["put", "items.jsonl", "--nats", nats_server.url, "--queue", "waits"]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with penstock.started(*command, "--maxsize", "2", **pipes) as process:
        assert process.stderr is not None
        process.stderr.readline()
        # The third waits, and says once that the queue is full if it says anything.
        wait_for("two items", lambda: size(nats_server, "waits") == 2)
        os.kill(process.pid, signal.SIGINT)
        out = process.stdout.read()  # type: ignore[union-attr]
        assert process.wait(90) == 130
    assert out.decode() == (
        "accepted     2 items\nrefused      0\nstopped      after line 2; to continue: --skip 2\n"
    )
    assert items(nats_server, "waits", 2) == [1, 2]


@pytest.mark.parametrize("signals", [1, 2])
def test_interrupted_while_the_server_has_not_answered_it_says_that_nobody_knows(
    signals: int, penstock: Command, start_nats: Callable[..., NatsServer]
) -> None:
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    server = start_nats()
    command = ["put", "-", "--nats", server.url, "--queue", "frozen", "--maxsize", "2"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with penstock.started(*command, **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        wait_for("an item", lambda: size(server, "frozen") == 1)
        server.freeze()
        process.stdin.write(b"2\n")
        process.stdin.flush()
        left = array("i", [1])

        def is_read() -> bool:
            fcntl.ioctl(process.stdin, termios.FIONREAD, left)
            return left[0] == 0

        wait_for("the line to be read", is_read)
        for number in (signal.SIGINT, signal.SIGTERM)[:signals]:
            process.send_signal(number)
        out, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert out.decode() == (
        "accepted     1 item\nrefused      0\nstopped      after line 1; to continue: --skip 1\n"
    )
    doubt = (
        "line 2 may be in the queue or not: with --skip 1 it may be in the queue twice, "
        "with --skip 2 not at all\n"
    )
    server.thaw()
    if doubt not in told.decode():  # the signal was there before the put
        assert told.decode() == "penstock: interrupted\n"
        assert items(server, "frozen", 2) == [1]


def test_a_server_that_goes_away_for_a_while_is_waited_for(
    penstock: Command, start_nats: Callable[..., NatsServer]
) -> None:
    server = start_nats()
    count = 3000
    penstock.lines(*range(count), name="items.jsonl")
    command = ["put", "items.jsonl", "--nats", server.url, "--queue", "gone"]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with penstock.started(*command, "--maxsize", str(count), **pipes) as process:
        assert process.stderr is not None
        process.stderr.readline()
        server.kill()
        server.start()
        out = process.stdout.read()  # type: ignore[union-attr]
        told = process.stderr.read().decode()
        assert process.wait(90) == 0, told
    assert out.decode() == f"accepted     {count} items\nrefused      0\n"
    assert sorted(items(server, "gone", count)) == list(range(count))
