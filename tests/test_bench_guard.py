"""``make bench-guard`` compares two versions, and says which one costs more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: At the end of a package: each put of its BoundedQueue keeps a kilobyte. It looks for the package
#: when it is called, and must find its own.
KEEPS_A_KILOBYTE = """
kept, put = [], BoundedQueue.put

async def wasteful_put(self, item, timeout=None):
    from penstock import kept

    kept.append(bytearray(1000))
    return await put(self, item, timeout)

BoundedQueue.put = wasteful_put
"""


def guard(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.guard", "--quick", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def rows(report: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in report.splitlines() if "%" in line]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 5}


@pytest.fixture
def wasteful(tmp_path: Path) -> str:
    """A folder with a version that keeps a kilobyte for each item put."""
    package = tmp_path / "src" / "penstock"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "penstock", package, ignore=ignored)
    with (package / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(KEEPS_A_KILOBYTE)
    return str(tmp_path)


def check_that_waste_is_seen(report: str) -> None:
    found = rows(report)
    assert len(found) == 9
    for line, (_old, _new, ratio, _between, noise, _verdict) in found.items():
        assert float(ratio) > 0, line
        assert re.fullmatch(r"±\d+\.\d %", noise), line
    old, new, _ratio, _between, noise, verdict = found["memory of an item that waits"]
    old_bytes = int(old.removesuffix(" bytes"))
    assert old_bytes < 1000  # each version runs its own code
    assert int(new) >= old_bytes + 1000
    assert noise == "±0.0 %"
    assert verdict == "**more**"


def test_what_a_version_costs_more_is_seen(wasteful: str) -> None:
    done = guard("--strict", ".", wasteful)
    assert done.returncode == 1, done.stderr
    check_that_waste_is_seen(done.stdout)


def test_a_version_can_be_a_commit(wasteful: str) -> None:
    try:
        subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not a repository")
    done = guard("HEAD", wasteful)
    assert done.returncode == 0, done.stderr  # unless one asks for --strict
    check_that_waste_is_seen(done.stdout)


def test_a_version_that_is_not_there_is_an_error() -> None:
    done = guard("no-such-commit-or-folder", ".")
    assert done.returncode == 2
    assert "no-such-commit-or-folder" in done.stderr
