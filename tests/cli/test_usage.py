"""Wrong usage: one line that says what is wrong, exit code 2, and nothing touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import ENVIRONMENT
from penstock.cli.app import run_command

URL = ("--url", "http://127.0.0.1:9")
NO_FULL_URL = (
    "must be a full URL that starts with http:// or https://, "
    "for example https://api.example.com/v1"
)
MISSING_OUT = "--out is missing: give the file for the results, or - for standard output"
NEEDS_EARLIER = "--retry-failed needs the results of earlier runs, and"
NO_JOURNAL = "it exists already, and has no results of penstock run: give another name"
WRONG: list[tuple[list[str], str]] = [
    (["missing.jsonl", "--out", "new"], "cannot read missing.jsonl: No such file or directory"),
    (["folder", "--out", "new"], "cannot read folder: Is a directory"),
    (
        ["lines", "--out", "new", "--url", "example.com"],
        f"--url {NO_FULL_URL}",
    ),
    (
        ["lines", "--out", "new", "--url", "ftp://me:secret@example.com"],
        f"--url {NO_FULL_URL}",
    ),
    (
        ["lines", "--out", "new", "--url", "http://h:99999"],
        "--url is not a valid URL: there is no port 99999",
    ),
    (
        ["lines", "--out", "new", "--url", "http://h?a=1"],
        "--url must have no '?' and no '#': write parameters into the lines",
    ),
    (["lines", "--out", "new", "--concurrency", "0"], "--concurrency must be at least 1, got 0"),
    (["lines", "--out", "new", "--capacity", "-1"], "--capacity must be at least 1, got -1"),
    (
        ["lines", "--out", "new", "--concurrency", "many"],
        "--concurrency must be a number, auto or auto:N (as in auto:50), got 'many'",
    ),
    (
        ["lines", "--out", "new", "--concurrency", "auto:0"],
        "--concurrency must be at least 1, got 0",
    ),
    (["lines", "--out", "new", "--retry", "-1"], "--retry must be at least 0, got -1"),
    (
        ["lines", "--out", "new", "--rate", "500"],
        "--rate: a rate must look like 500/min, 20/s or 100/10s, got '500'",
    ),
    (
        ["lines", "--out", "new", "--tokens", "-1/s"],
        "--tokens: a rate must look like 500/min, 20/s or 100/10s, got '-1/s'",
    ),
    (
        ["lines", "--out", "new", "--tokens", "1/s", "--cost", "a..b"],
        "--cost must be a path such as usage.total_tokens, or a sum of them, got 'a..b'",
    ),
    (["lines", "--out", "new", "--timeout", "0"], "--timeout must be more than 0 seconds, got 0"),
    (
        ["lines", "--out", "new", "--timeout", "nan"],
        "--timeout must be more than 0 seconds, got nan",
    ),
    (["lines", "--out", "new", "--deadline", "0"], "--deadline must be more than 0 seconds, got 0"),
    (["lines"], MISSING_OUT),
    (
        ["lines", "--out", "new", "--failures", "-"],
        "--failures must be the name of a file, and not standard output",
    ),
    (["lines", "--out", "-", "--retry-failed"], f"{NEEDS_EARLIER} --out - keeps none"),
    (
        ["lines", "--out", "new", "--retry-failed", "--overwrite"],
        f"{NEEDS_EARLIER} --overwrite keeps none",
    ),
    (["lines", "--out", "no/new"], "cannot write --out no/new: No such file or directory"),
    (["lines", "--out", "folder"], "cannot write --out folder: Is a directory"),
    (
        ["lines", "--out", "old"],
        f"cannot write --out old: {NO_JOURNAL}",
    ),
    (
        ["lines", "--out", "lines", "--overwrite"],
        "cannot write --out lines: it is the file that the requests are read from",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "lines").write_text('{"path": "/"}\n')
    (tmp_path / "old").write_text("results of a night\n")
    return tmp_path


def contents(folder: Path) -> dict[str, str | None]:
    return {path.name: path.read_text() if path.is_file() else None for path in folder.iterdir()}


@pytest.mark.parametrize(("arguments", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    before = contents(folder)
    assert run_command(["run", *URL, *arguments]) == 2
    told = capsys.readouterr()
    assert told.err == f"penstock: {problem}\n"
    assert told.out == ""
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Missing command"),
        (["fly"], "fly"),
        (["run"], "FILE"),
        (["run", "lines", "--out", "new", "--capacity", "many"], "--capacity"),
        (["run", "lines", "--out", "new", "--sideways"], "--sideways"),
    ],
)
def test_what_is_no_command(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    before = contents(folder)
    assert run_command(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("penstock: ")
    assert problem in told
    assert told.count("\n") == 1
    assert contents(folder) == before


def test_proxy_settings_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://somewhere")
    assert run_command(["run", "lines", "--out", "new", *URL]) == 2
    told = capsys.readouterr().err
    assert told.startswith("penstock: the proxy settings in the environment cannot be used: ")
    assert not (folder / "new").exists()


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for code in ("0 all succeeded", "1 some failed", "2 wrong usage", "3 a 401", "130 Ctrl-C"):
        assert code in told


def test_help_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    assert run_command(["run", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") <= 130
    assert max(map(len, told.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out.startswith("penstock 0.")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("penstock r", ["results", "run"]),
        ("penstock run --conc", ["--concurrency"]),
        ("penstock run --retry", ["--retry-failed", "--retry-on"]),
        ("penstock run --input-format c", ["csv"]),
    ],
)
def test_bash_completes(words: str, offered: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli"],
        env=ENVIRONMENT
        | {
            "_PENSTOCK_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert sorted(done.stdout.split()) == offered, done.stderr


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_the_completion_script_for_bash() -> None:
    program = f"{sys.executable} -m penstock.cli --show-completion; true"  # true: bash stays
    done = subprocess.run(
        ["/bin/bash", "-c", program],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "complete -o default -F _penstock_completion penstock" in done.stdout, done.stderr


@pytest.mark.parametrize("package", ["typer", "aiohttp", "filelock"])
def test_without_the_extra_it_says_what_to_install(package: str) -> None:
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from penstock.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"penstock: the command needs the package {package}: pip install 'penstock[cli]'\n"
    )


def test_a_package_of_our_own_that_is_missing_is_not_blamed_on_the_extra() -> None:
    program = """
import sys
sys.modules["penstock.cli.run.run"] = None
from penstock.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "pip install" not in done.stderr
