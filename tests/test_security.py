"""What SECURITY.md says, and the attacks that have no other place."""

from __future__ import annotations

import ast
import asyncio
import gzip
import io
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from cli.conftest import LIMIT, Command, Server, penstock, server  # noqa: F401
from penstock import BoundedQueue, Limit, Limiter
from penstock.brokers.nats import NatsQueue
from penstock.brokers.nats.connection.addresses import bare_url
from penstock.cli.input_file import InputFile
from penstock.cli.report.report import RunInfo, write_report
from penstock.cli.run import client as client_module
from penstock.cli.run.answers import Answer
from penstock.cli.run.client import AiohttpClient
from penstock.cli.run.connections import Connections
from penstock.cli.run.credentials import Credentials
from penstock.cli.run.history import History, public_url
from penstock.cli.run.input_format import InputFormat
from penstock.cli.run.journal import NotAJournalError, open_failures, open_results
from penstock.cli.run.preview import preview
from penstock.cli.run.requests import RequestMaker
from penstock.cli.run.results import RequestResult, Totals, to_json
from penstock.cli.run.sender import Pending, Sender
from penstock.telemetry import Telemetry

ROOT = Path(__file__).parents[1]


# -- the table ------------------------------------------------------------------------------------


def named_tests() -> list[str]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [re.fullmatch(r"\| .+ \| .+ \| `(.+)` \|", row)[1] for row in rows]  # type: ignore[index]


def test_the_table_has_threats() -> None:
    assert len(named_tests()) > 30


@pytest.mark.parametrize("named", named_tests())
def test_each_threat_has_a_test(named: str) -> None:
    path, _, name = named.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in [node.name for node in tree.body if isinstance(node, functions)]
    assert Path(path).name.startswith("test_")
    assert name.startswith("test_")


def test_nothing_evaluates_text_or_unpickles() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path


# -- a hostile server -----------------------------------------------------------------------------


async def answer_of(url: str) -> Answer:
    async with AiohttpClient(1, timeout=LIMIT) as client:
        request = RequestMaker(None).make(1, {"url": url})
        return await Sender(client, LIMIT).send(Pending(request))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers may have a mebibyte, so that the tests are quick."""
    monkeypatch.setattr(client_module, "LONGEST_ANSWER", 2**20)


@pytest.mark.real_time
@pytest.mark.usefixtures("short")
async def test_an_answer_that_is_too_long_is_a_failure(server: Server) -> None:  # noqa: F811
    server.answer = lambda _: (200, {}, bytes(2**20 + 1))
    answer = await answer_of(server.url)
    assert (answer.kind, answer.message) == ("protocol", "more than 1 MiB")
    server.answer = lambda _: (200, {}, bytes(2**20))
    answer = await answer_of(server.url)
    assert answer.response is not None
    assert len(answer.response.content) == 2**20


@pytest.mark.real_time
@pytest.mark.usefixtures("short")
async def test_an_answer_that_unpacks_to_too_much_is_a_failure(server: Server) -> None:  # noqa: F811
    packed = gzip.compress(bytes(50 * 2**20))
    server.answer = lambda _: (200, {"Content-Encoding": "gzip"}, packed)
    answer = await answer_of(server.url)
    assert (answer.kind, answer.message) == ("protocol", "more than 1 MiB")
    small = gzip.compress(b'{"fine": true}')
    server.answer = lambda _: (200, {"Content-Encoding": "gzip", "X-Other": "kept"}, small)
    answer = await answer_of(server.url)
    assert answer.response is not None
    assert json.loads(answer.response.content) == {"fine": True}
    assert answer.response.headers["X-Other"] == "kept"


@pytest.mark.real_time
async def test_what_a_redirect_says_is_not_read(server: Server) -> None:  # noqa: F811
    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        if seen.path == "/end":
            return 200, {}, b"there"
        return 302, {"Location": "/end"}, bytes(1_000 if seen.path == "/short" else 2**17)

    server.answer = answer
    for path in ("/long", "/short"):
        answered = await answer_of(f"{server.url}{path}")
        assert answered.response is not None
        assert answered.response.content == b"there"


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Says these bytes to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(LIMIT)


@pytest.mark.real_time
def test_what_a_server_says_is_no_command_to_a_terminal(penstock: Command) -> None:  # noqa: F811
    said = (
        b"HTTP/1.1 401 No\x1b]0;owned\x07\x1b[31m\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    with raw_server(said) as url:
        file = penstock.lines({"path": "/"})
        done = penstock.run("run", file, "--url", url, "--out", "results.jsonl")
    assert done.returncode == 3
    assert r"answered 401 No\x1b]0;owned\x07\x1b[31m" in done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout + done.stderr)


def test_no_control_character_is_in_a_line_of_results() -> None:
    hostile = "".join(map(chr, range(0xA0))) + "é"
    line = RequestResult("\x9b31m", 1, 200, to_json({hostile: hostile})).to_line().decode()
    assert line.endswith("\n")
    assert not re.search(r"[\x00-\x1f\x80-\x9f]", line[:-1])
    assert json.loads(line)["body"] == {hostile: hostile}


@pytest.mark.real_time
def test_an_absurd_cost_in_an_answer_does_not_end_the_run(
    penstock: Command,  # noqa: F811
    server: Server,  # noqa: F811
) -> None:
    costs = iter(["9" * 400, "1e308", "1e999", "NaN", "-1", '"x"', "5"])
    kind = {"Content-Type": "application/json"}
    server.answer = lambda _: (200, kind, b'{"usage": {"total_tokens": %s}}' % next(costs).encode())
    file = penstock.lines(*({"path": f"/{number}"} for number in range(7)))
    options = ("--url", server.url, "--out", "results.jsonl", "--cost", "usage.total_tokens")
    done = penstock.run("run", file, *options, "--concurrency", "1")
    assert done.returncode == 1, done.stderr  # NaN is no JSON
    assert len(penstock.results()) == 7


# -- files ----------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def report_to(path: Path) -> None:
    write_report(str(path), RunInfo("requests.jsonl"), Totals(), History(None, None), 1.0, [])


def test_what_holds_answers_is_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        requests = tmp_path / "requests.jsonl"
        requests.touch()
        with open(requests, "rb") as file:
            results = open_results(str(tmp_path / "results"), file)
            with results.file, open_failures(str(tmp_path / "failures"), file):
                results.release()
        report_to(tmp_path / "report.html")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("results", "failures", "report.html")] == [0o600] * 3


def test_results_are_not_written_through_a_link_to_another_file(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "results"
    precious.write_text("precious")
    link.symlink_to(precious)
    with open(__file__, "rb") as requests:
        with pytest.raises(NotAJournalError, match="give another name"):
            open_results(str(link), requests)  # type: ignore[arg-type]
        with pytest.raises(NotAJournalError, match="give another name"):
            open_failures(str(link), requests)  # type: ignore[arg-type]
    assert precious.read_text() == "precious"


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / f".report.html.{os.getpid()}.tmp").symlink_to(precious)
    report_to(tmp_path / "report.html")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "report.html").is_symlink()


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "results.lock").symlink_to(precious)
    with open(__file__, "rb") as requests, pytest.raises(OSError, match=r"."):
        open_results(str(tmp_path / "results"), requests)  # type: ignore[arg-type]
    assert precious.read_text() == "precious"


# -- secrets --------------------------------------------------------------------------------------

URLS = ["http://user:hunter22@127.0.0.1/a", "http://hunter22@127.0.0.1/a?b=c#d"]


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_a_url_is_shown_nowhere(url: str) -> None:
    line = json.dumps({"url": url}).encode()
    file = InputFile(io.BufferedReader(io.BytesIO(line)))  # type: ignore[arg-type]
    shown = [preview(file, InputFormat(), Credentials()), public_url(url)]
    for password in ("hunter22", "a://hunter22", "a@hunter22", "hunter22://"):
        shown.append(bare_url(f"nats://user:{password}@127.0.0.1:4222"))
        shown.append(bare_url(f"user:{password}@127.0.0.1:4222"))
    with pytest.raises(ValueError, match="servers must be like") as refused:
        NatsQueue("ftp://user:hunter22@127.0.0.1", "q")
    shown.append(str(refused.value))
    assert "127.0.0.1/a" in shown[0]
    assert "hunter22" not in "".join(shown)


@pytest.mark.parametrize("proxy", ["foo://user:hunter22@proxy", "http://user:hunter22@[::1"])
def test_a_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match=r"proxy|port") as refused:
        Connections()
    assert "hunter22" not in str(refused.value)


def test_an_error_about_a_cost_shows_nothing_of_the_item() -> None:
    item = {"password": "hunter22"}
    limits = [
        Limit(1, 1, cost=lambda item: item["nope"]),
        Limit(1, 1, cost=lambda item: -1),
        Limit(1, 1, key=lambda item: item["nope"]),
        Limit(1, 1, key=lambda item: item),
        Limit(1, 1, cost=lambda item: 2),
    ]
    for limit in limits:
        with pytest.raises((ValueError, TypeError)) as refused:
            asyncio.run(Limiter([limit]).acquire(item))
        assert "hunter22" not in str(refused.value)


# -- names and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\nERROR forged", "\x1b[31m", "a\r", "\x9b", "\u202e", "\ud800"])
def test_a_name_has_no_line_breaks_and_no_escapes(name: str) -> None:
    for make in (
        lambda: BoundedQueue(name=name),
        lambda: Limit(1, 1, name=name),
        lambda: Limiter((), name=name),
        lambda: NatsQueue("nats://127.0.0.1", name),
    ):
        with pytest.raises(ValueError, match="name must be"):
            make()


def test_no_size_of_a_queue_is_too_large_for_an_exporter() -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(None, MeterProvider([reader], shutdown_on_exit=False))
    queue: BoundedQueue[int] = BoundedQueue(2**63 - 1, telemetry=telemetry)
    assert encode_metrics(reader.get_metrics_data()).SerializeToString()  # type: ignore[arg-type]
    assert queue.maxsize == 2**63 - 1
    with pytest.raises(ValueError, match="maxsize must be at most"):
        BoundedQueue(2**63, telemetry=telemetry)
