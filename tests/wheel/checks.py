"""The wheel: built, installed alone into an empty environment, and tested there.

Not among the tests: ``make wheel`` runs it. The environments come from the package index.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.metadata import Metadata
from readme_renderer import markdown

from penstock._version import __version__

ROOT = Path(__file__).parents[2]
BOUND = 900.0
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: What the code of each extra is for, and what it says without it.
EXTRAS = {
    "aiohttp": "import penstock.aiohttp; penstock.aiohttp.PolicyMiddleware()",
    "httpx": "import penstock.httpx; penstock.httpx.PolicyTransport()",
    "httpx2": "import penstock.httpx2; penstock.httpx2.PolicyTransport()",
    "requests": "import penstock.requests; penstock.requests.PolicyAdapter()",
    "msgpack": "from penstock.brokers.codecs import MsgpackCodec; MsgpackCodec()",
    "nats": """
from penstock.brokers.nats import NatsQueue
NatsQueue("nats://localhost:4222", name="calls")
""",
    "otel": """
import os, penstock.telemetry
penstock.telemetry.setup("tests", "http://localhost:4317")
os._exit(0)  # it would try to send what there is
""",
    "postgres": """
from penstock.brokers.postgres import PostgresQueue
PostgresQueue("postgresql://localhost/shop", name="calls")
""",
    "progress": """
import asyncio, penstock
asyncio.run(penstock.WorkQueue().batch_process([1], str, progress=True))
""",
}
COMMAND = "import sys; sys.argv[1:] = ['--version']; import penstock.cli; penstock.cli.main()"

#: Tests that need nothing of the repository but themselves.
TESTS = (
    *(
        f"tests/test_{name}.py"
        for name in (*("config", "errors", "events", "executors", "testing", "work_queue"),)
    ),
    *(
        "tests/contract",
        "tests/limits",
        "tests/queue",
        "tests/workers",
        *(
            f"tests/sync/test_{name}.py"
            for name in ("adapter", "futures", "pool", "provider", "queue", "work_queue")
        ),
    ),
)
NEEDED = (
    "hypothesis",
    "packaging",
    "pytest",
    "pytest-asyncio",
    "pytest-xdist",
    "tenacity",
    "trustme",
)


class Built(NamedTuple):
    """What was built."""

    wheel: Path
    sdist: Path


class Environment:
    """A virtual environment, with nothing in it, that more and more is installed into."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self._bin = folder / "bin"
        self._installed: list[tuple[str, ...]] = []

    def have(self, *stages: tuple[str, ...]) -> Environment:
        """See that these are installed, one stage after the other, and nothing else."""
        assert self._installed == list(stages[: len(self._installed)]), "in the order of this file"
        for what in stages[len(self._installed) :]:
            into = ("--python", str(self._bin / "python"))
            pip = [sys.executable, "-m", "pip", *into, "install", "-q", "--no-compile"]
            done = run([*pip, "-c", str(ROOT / "constraints.txt"), *what])
            assert done.returncode == 0, done.stderr
            self._installed.append(what)
        return self

    def run(self, *arguments: str, script: str = "python") -> subprocess.CompletedProcess[str]:
        return run([str(self._bin / script), *arguments])

    def fails(self, program: str) -> str:
        """The last line of what a program says that fails."""
        done = self.run("-c", program)
        assert done.returncode == 1, done
        return done.stderr.splitlines()[-1]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=BOUND, check=False
    )


def build(source: Path, folder: Path, *what: str) -> None:
    done = run(
        [sys.executable, "-m", "build", "--no-isolation", *what, "-o", str(folder), str(source)]
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def bare(environment: Environment, built: Built) -> Environment:
    """An environment with the wheel, and no extra."""
    return environment.have((str(built.wheel),))


@pytest.fixture
def with_command(environment: Environment, built: Built) -> Environment:
    """One with the extra ``cli``."""
    return environment.have((str(built.wheel),), (f"{built.wheel}[cli]",))


@pytest.fixture
def full(environment: Environment, built: Built) -> Environment:
    """One with all extras, and what the tests need."""
    everything = f"{built.wheel}[cli,report,{','.join(EXTRAS)}]"
    return environment.have((str(built.wheel),), (f"{built.wheel}[cli]",), (everything, *NEEDED))


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(built: Built) -> Metadata:
    """What the wheel says of itself, checked against the standard."""
    with zipfile.ZipFile(built.wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name), validate=True)


# -- what is in it ---------------------------------------------------------------------------


def test_the_wheel_has_the_package_and_nothing_else(built: Built) -> None:
    source = ROOT / "src"
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "penstock").rglob("*")
        if path.suffix in (".py", ".css", ".typed")
    }
    info = f"penstock-{__version__}.dist-info"
    told = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert files(built.wheel) == package | {f"{info}/{name}" for name in told}
    assert "penstock/py.typed" in package


def test_the_sdist_has_what_the_wheel_is_built_from_and_the_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    allowed = {
        *("src", "tests", "examples", "docs"),
        *(
            "README.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "LICENSE",
            "pyproject.toml",
            "PKG-INFO",
            ".gitignore",
        ),
    }
    assert {name.partition("/")[0] for name in names} == allowed
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|\.so$|\.log$", name)]


def test_the_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path, filter="data")
        else:  # Python before 3.10.12 or 3.11.4
            archive.extractall(tmp_path)
    [unpacked] = tmp_path.iterdir()
    build(unpacked, tmp_path, "--wheel")
    [again] = tmp_path.glob("*.whl")
    assert files(again) == files(built.wheel)


def test_the_metadata_say_what_it_needs_and_offers(built: Built) -> None:
    told = metadata(built)
    assert str(told.version) == __version__
    assert told.license_expression == "Apache-2.0"
    assert told.license_files == ["LICENSE"]
    assert set(told.provides_extra or ()) == {"cli", "report", *EXTRAS}
    always = {one.name for one in told.requires_dist or () if "extra" not in str(one.marker)}
    assert always == {"janus", "opentelemetry-api", "pydantic", "typing-extensions"}


def test_its_readme_is_rendered(built: Built) -> None:
    told = metadata(built)
    assert told.description_content_type == "text/markdown"
    shown = markdown.render(told.description or "")
    assert shown is not None
    assert re.search(r"<h1[^>]*>penstock", shown)


def test_its_readme_has_the_code_of_the_repository_and_no_link_that_leads_nowhere(
    built: Built,
) -> None:
    told = metadata(built).description or ""
    blocks = [re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE) for text in (README, told)]
    assert blocks[0] == blocks[1]
    shown = markdown.render(told) or ""
    targets = re.findall(r'(?:href|src)="([^"]*)"', shown)
    assert [target for target in targets if not target.startswith(("http", "#"))] == []


# -- installed alone -------------------------------------------------------------------------------


def test_it_is_imported_without_any_extra(bare: Environment) -> None:
    modules = ("penstock", "penstock.sync", "penstock.testing", "penstock.telemetry")
    done = bare.run("-I", "-W", "error", "-c", f"import {', '.join(modules)}; print(penstock)")
    assert done.returncode == 0, done.stderr
    assert "site-packages" in done.stdout


def test_it_works_without_any_extra(bare: Environment) -> None:
    program = """
import asyncio, penstock, penstock.sync

async def double(item):
    return 2 * item

async def main():
    async with penstock.WorkQueue(limits=[penstock.Limit(1000, per=1)]) as queue:
        return [result async for result in queue.map(double, range(3))]

with penstock.sync.WorkQueue() as queue:
    print(asyncio.run(main()), list(queue.map(str, range(3))))
"""
    done = bare.run("-I", "-W", "error", "-c", program)
    assert (done.stdout, done.stderr) == ("[0, 2, 4] ['0', '1', '2']\n", "")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named_where_it_is_needed(bare: Environment, extra: str) -> None:
    error = bare.fails(EXTRAS[extra])
    assert error.startswith("ImportError: ")
    assert f"pip install 'penstock[{extra}]'" in error


@pytest.mark.parametrize("way", [["penstock"], ["python", "-m", "penstock"]], ids=" ".join)
def test_the_command_says_that_its_extra_is_missing(bare: Environment, way: list[str]) -> None:
    script, *arguments = way
    done = bare.run(*arguments, "--version", script=script)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"penstock: the command needs the package \w+: pip install 'penstock\[cli\]'\n", done.stderr
    )


# -- with the command ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [["penstock"], ["python", "-m", "penstock"]], ids=" ".join)
def test_the_command_runs_with_its_extra(with_command: Environment, way: list[str]) -> None:
    script, *arguments = way
    done = with_command.run(*arguments, "--version", script=script)
    assert (done.stdout, done.stderr) == (f"penstock {__version__}\n", "")


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("report", "run {file} --url http://localhost:1 --out {out} --report {out}.html"),
        ("otel", "run {file} --url http://localhost:1 --out {out} --otlp http://localhost:1"),
        ("nats", "put {file} --nats nats://localhost:1 --queue calls"),
        ("nats", "queue calls --nats nats://localhost:1"),
        ("nats", "worker math:sqrt --nats nats://localhost:1 --queue calls"),
        ("nats", "worker math:sqrt --nats nats://localhost:1 --queue calls --shared-rate 1/s"),
        ("postgres", "put {file} --broker postgresql://localhost:1/shop --queue calls"),
        ("postgres", "postgres init postgresql://localhost:1/shop"),
    ],
)
def test_the_command_names_the_other_extras(
    with_command: Environment, tmp_path: Path, extra: str, arguments: str
) -> None:
    file, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    file.write_text('{"path": "/"}\n')
    words = [word.format(file=file, out=out) for word in arguments.split()]
    done = with_command.run(*words, script="penstock")
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert f"pip install 'penstock[{extra}]'" in done.stderr
    assert not out.exists()


# -- with all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [*EXTRAS, "cli"])
def test_an_extra_alone_is_enough(full: Environment, extra: str) -> None:
    only = str(Path(__file__).with_name("only.py"))
    done = full.run(only, extra, EXTRAS.get(extra, COMMAND))
    assert done.returncode == 0, done.stderr


def test_the_tests_pass_against_the_installed_wheel(full: Environment) -> None:
    installed = str(Path(__file__).with_name("installed.py"))
    how = ("-q", "-n", "2", "-p", "no:cacheprovider", "-k", "not NatsQueue")
    done = full.run("-m", "pytest", *how, installed, *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
