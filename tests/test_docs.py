"""What docs/ shows runs as it is written there, and what the pages point to exists."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

# Servers for the pages that need one.
from brokers.conftest import (  # noqa: F401
    nats_program,
    nats_server,
    postgres_programs,
    postgres_server,
)
from pages import DOCS, PAGES, ROOT, Block, all_blocks, anchors, blocks, commands, is_like, outputs
from penstock._util.compat import load_toml
from penstock.telemetry import names
from processes import HeldPort
from telemetry.receiver import Receiver

#: What pages call instead of a server and a collector on this machine.
SERVER, COLLECTOR = "https://api.example.com", "http://localhost:4317"
#: The variables in which pages that need a server find its address, and whose fixture it is.
SERVERS = {"NATS_URL": "nats_server", "DATABASE_URL": "postgres_server"}
#: Where the servers listen that pages start: another one, a free one, is put in its place.
PORT = "8000"
#: Where a program runs, and what is written down to be read.
# SQL is run in a database, by the tests of its broker.
PROGRAMS, DATA = ("python", "console"), ("toml", "json", "yaml", "text", "sql")
#: Files that are found without being named in a command.
FOUND = ("conftest.py", "pyproject.toml")
MARKS, KINDS = ("output", "in the background"), ("file:", "not run:", "exits with", "served:")
#: Seconds that a block or command may take.
LIMIT = 60.0


@dataclass
class There:
    """What the pages call: a server, and a receiver of telemetry."""

    server: str
    receiver: Receiver

    def __call__(self, text: str) -> str:
        """The text, with real addresses."""
        return text.replace(SERVER, self.server).replace(COLLECTOR, self.receiver.endpoint)

    def as_written(self, text: str) -> str:
        """The text, with those of the pages."""
        return text.replace(self.server, SERVER).replace(self.receiver.endpoint, COLLECTOR)

    def check_telemetry(self, text: str, spans: int) -> None:
        """If the text sends some, it came: there were so many spans before."""
        assert COLLECTOR not in text or len(self.receiver.spans) > spans


@pytest.fixture(scope="module")
def there() -> Iterator[There]:
    options = ["--rate", "1000", "--errors", "0", "--latency", "0.02"]
    command = [sys.executable, "examples/api_server.py", *options]
    with (
        Receiver() as receiver,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            yield There(process.stdout.readline().strip(), receiver)
        finally:
            process.terminate()
            process.wait(LIMIT)


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a program finds: itself, and a server if it asks where that is."""
    params = request.node.callspec.params
    found = [params["block"]] if "block" in params else blocks(params["page"])
    servers = {
        name: request.getfixturevalue(fixture).url
        for name, fixture in SERVERS.items()
        if any(name in block.code for block in found)
    }
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "100",
        **servers,
    }


#: What programs of pages use that `make test` does not install.
OTHERS = re.compile(
    rf"^\s*(?:import|from) (?:openai|anthropic|django|flask|fastapi)\b|{'|'.join(SERVERS)}",
    re.MULTILINE,
)


def having(wanted: Any) -> list[Any]:
    return [
        pytest.param(
            block, id=block.name, marks=[pytest.mark.slow] if OTHERS.search(block.code) else []
        )
        for block in all_blocks()
        if wanted(block)
    ]


def is_program(block: Block) -> bool:
    return block.language == "python" and block.said("file:") is None


def run(
    command: list[str], there: There, folder: Path, environment: dict[str, str], *, as_one: bool
) -> subprocess.CompletedProcess[str]:
    """Run a program or a shell command. ``as_one``: what it logs is part of what it prints."""
    done = subprocess.run(
        [there(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if as_one else subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    done.stdout = there.as_written(done.stdout)
    return done


#: A put that waits for 0.1 s and whose answer nobody looks at.
IGNORED_PUT = re.compile(r"^\s*(?:await )?[\w.]*queue\.put\((?!.*timeout=).*\)$", re.MULTILINE)


@pytest.mark.parametrize("place", [*PAGES, ROOT / "README.md", ROOT / "examples"])
def test_no_program_ignores_that_a_put_was_refused(place: Path) -> None:
    files = [place] if place.is_file() else sorted(place.glob("*.py"))
    ignored = [IGNORED_PUT.findall(file.read_text(encoding="utf-8")) for file in files]
    assert not any(ignored), ignored


@pytest.mark.parametrize("block", having(lambda block: is_program(block) and not block.comment))
def test_program_runs_without_a_warning_and_prints_what_the_page_says(
    block: Block, there: There, tmp_path: Path, environment: dict[str, str]
) -> None:
    # -u: what it logs and what it prints, in order.
    command = [sys.executable, "-u", "-W", "error", "-c", block.code]
    expected, spans = outputs(block), len(there.receiver.spans)
    done = run(command, there, tmp_path, environment, as_one=bool(expected))
    assert (done.returncode, done.stderr or "") == (0, ""), done.stdout
    for output in expected:
        assert is_like(done.stdout, output), done.stdout
    there.check_telemetry(block.code, spans)


CONSOLES = [page for page in PAGES if any(block.language == "console" for block in blocks(page))]


@contextmanager
def in_the_background(line: str, port: int, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a server until the page is at its end; go on when it answers at its port."""
    with subprocess.Popen(line, shell=True, cwd=folder, env=env, start_new_session=True) as process:
        try:
            for _ in range(600):
                if process.poll() is not None:
                    pytest.fail(f"{line} ended")
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("page", CONSOLES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_commands_of_a_page_do_what_it_says(
    page: Path, there: There, tmp_path: Path, environment: dict[str, str]
) -> None:
    """One after the other, in a folder of their own, with the files that the page shows."""
    ran, spans = "", len(there.receiver.spans)
    with ExitStack() as servers:
        port = servers.enter_context(HeldPort()).number

        def here(text: str) -> str:
            return re.sub(rf"\b{PORT}\b", str(port), there(text))

        for block in blocks(page):
            file = block.said("file:")
            if file is not None:
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / file).write_text(here(block.code), encoding="utf-8")
        for block in blocks(page):
            if block.language != "console" or block.said("not run:"):
                continue
            given = commands(block)
            for command in given:
                if command.line.startswith("pip install "):
                    continue  # see below
                ran += command.line
                if block.comment == "in the background":
                    background = in_the_background(command.line, port, tmp_path, environment)
                    servers.enter_context(background)
                    continue
                done = run(
                    ["bash", "-c", here(command.line)], there, tmp_path, environment, as_one=True
                )
                expected = int(block.said("exits with") or 0) if command is given[-1] else 0
                assert done.returncode == expected, f"{command.line}\n{done.stdout}"
                assert not command.output or is_like(done.stdout, command.output), done.stdout
                assert not re.search(r"Warning\b|Traceback", done.stdout), done.stdout
    for block in blocks(page):
        file = block.said("file:")
        assert file in (None, *FOUND) or file in ran, f"no command of the page uses {file}"
    there.check_telemetry(
        ran + "".join(block.code for block in blocks(page) if block.said("file:")), spans
    )


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = ", section, re.MULTILINE))


def test_extras_that_pages_install_exist() -> None:
    installs = [
        word
        for block in all_blocks()
        if block.language == "console"
        for command in commands(block)
        if command.line.startswith("pip install ")
        for word in re.findall(r"penstock\S*", command.line)
    ]
    assert installs
    for word in installs:
        assert Requirement(word.strip("'\"")).extras <= extras()


@pytest.mark.parametrize("block", having(lambda block: block.language in DATA))
def test_data_can_be_read(block: Block) -> None:
    if block.language == "json":
        try:
            json.loads(block.code)
        except ValueError:  # an object in each line
            assert [json.loads(line) for line in block.code.splitlines()]
    elif block.language == "yaml":
        yaml = pytest.importorskip("yaml", reason="what needs it is not tested here")
        assert yaml.safe_load(block.code)
    elif block.language == "toml":
        assert load_toml(io.BytesIO(block.code.encode()))


def test_every_block_says_what_it_is() -> None:
    for block in all_blocks():
        assert block.language in PROGRAMS + DATA, block.name
        kinds = [block.said(kind) for kind in KINDS]
        assert not block.comment or block.comment in MARKS or any(kinds), block.name


def test_what_servers_serve_has_a_test() -> None:
    files = (ROOT / "tests/servers").glob("test_*.py")
    tests = "".join(file.read_text(encoding="utf-8") for file in files)
    for block in all_blocks():
        name = block.said("served:")
        assert name is None or f'served("{name}")' in tests, block.name


@pytest.mark.parametrize("block", having(lambda block: block.said("not run:")))
def test_what_is_not_run_is_at_least_a_program(block: Block) -> None:
    if block.language == "python":
        compile(block.code, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # as notebooks do


def test_few_blocks_are_not_run() -> None:
    skipped = [block for block in all_blocks() if block.said("not run:")]
    assert len(skipped) * 10 <= len(list(all_blocks()))


def test_picture_of_the_trace_is_what_its_script_draws(tmp_path: Path) -> None:
    script, shown = DOCS / "pictures/draw_trace.py", DOCS / "pictures/trace.svg"
    drawn = tmp_path / "trace.svg"
    subprocess.run([sys.executable, script, drawn], check=True, timeout=LIMIT)
    spans = [re.findall(r"<text x=[^>]*>(.*?)<", one.read_text("utf-8")) for one in (shown, drawn)]
    assert spans[0] == spans[1]
    assert "process prices (attempt 2)" in spans[0]


def links() -> Iterator[Any]:
    for page in (*PAGES, ROOT / "README.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in sorted(set(re.findall(r"\]\(([^)\s]+)\)", text))):
            if "://" not in target:
                yield pytest.param(page, target, id=f"{page.relative_to(ROOT)}-{target}")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists()
    if anchor:
        assert anchor in anchors(there)


def test_metrics_are_called_that() -> None:
    known = {value for value in vars(names).values() if isinstance(value, str)}
    modules = (
        r"penstock\.(?:sync|limits|telemetry|config|testing|errors|httpx|aiohttp|requests"
        r"|brokers)\b"
    )
    for page in PAGES:
        if page.name == "upgrading.md":  # has the old names, too
            continue
        told = set(re.findall(r"`(penstock\.[a-z_.]+)`", page.read_text(encoding="utf-8")))
        assert {name for name in told if not re.match(modules, name)} <= known, page
        assert not page.match("how-to/telemetry.md") or len(told & known) > 10
