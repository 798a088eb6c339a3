"""Which Pythons `make test-all` finds."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("pythons.py")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the interpreters here are shell scripts")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The script, where PATH is ``first`` and ``second``, and pyenv's folder ``pyenv``."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(str(tmp_path / name) for name in ("first", "second"))
        environment = {"PATH": path, "PYENV_ROOT": str(tmp_path / "pyenv")}
        command = [sys.executable, str(SCRIPT), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def add(tmp_path: Path) -> Callable[[str, str], str]:
    """Put a program somewhere; returns its path."""

    def add(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return add


@pytest.fixture
def add_python(add: Callable[[str, str], str]) -> Callable[[str, str], str]:
    """Put an interpreter somewhere, which says that it has this version; returns its path."""
    return lambda name, version: add(name, f'echo "{version} $0"')


def test_finds_them_on_the_path_and_in_the_folder_of_pyenv(run, add_python) -> None:
    ten = add_python("second/python3.10", "3 10 2 final 0")
    eleven = add_python("pyenv/versions/3.11.7/bin/python", "3 11 7 final 0")
    twelve = add_python("first/python3", "3 12 1 final 0")
    assert run().stdout.splitlines() == [f"3.10={ten}", f"3.11={eleven}", f"3.12={twelve}"]


def test_a_shim_that_leads_nowhere_is_no_python(run, add, add_python) -> None:
    add("first/python3.12", 'echo "pyenv: python3.12: command not found" >&2; exit 127')
    add("first/python3.13", "echo something else")
    eleven = add_python("first/python3.11", "3 11 7 final 0")
    assert run().stdout.splitlines() == [f"3.11={eleven}"]


def test_takes_the_newest_release_of_each_minor_version(run, add_python) -> None:
    add_python("first/python3.13", "3 13 9 final 0")
    add_python("first/python3.14", "3 14 0 candidate 2")
    ten = add_python("pyenv/versions/3.13.10/bin/python", "3 13 10 final 0")
    final = add_python("pyenv/versions/3.14.0/bin/python", "3 14 0 final 0")
    add_python("pyenv/versions/3.9.18/bin/python", "3 9 18 final 0")
    assert run().stdout.splitlines() == [f"3.13={ten}", f"3.14={final}"]


def test_says_which_one_is_the_newest(run, add_python) -> None:
    add_python("first/python3.9", "3 9 1 final 0")
    add_python("first/python3.10", "3 10 1 final 0")
    newest = add_python("second/python3.20", "3 20 1 final 0")
    assert run("--newest").stdout == f"3.20={newest}\n"


def test_says_what_is_missing(run, add_python) -> None:
    add_python("first/python3.10", "3 10 13 final 0")
    add_python("first/python3.12", "3 12 1 final 0")
    found, missing = run("--missing").stdout.splitlines()
    assert found == "Pythons found: 3.10.13, 3.12.1"
    assert missing.startswith("Supported, and NOT found: 3.11, 3.13")


def test_fails_where_there_is_none(run) -> None:
    nothing = run()
    assert (nothing.returncode, nothing.stdout) == (1, "")


def test_finds_what_a_virtual_environment_was_made_from(tmp_path) -> None:
    pytest.importorskip("ensurepip", reason="this Python makes no environments")
    venv.create(tmp_path / "made", with_pip=False, symlinks=True)
    environment = {"PATH": str(tmp_path / "made" / "bin"), "PYENV_ROOT": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--newest"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    version, _, path = said.stdout.strip().partition("=")
    assert version == ".".join(map(str, sys.version_info[:2]))
    assert Path(path).is_file()
    assert tmp_path not in Path(path).parents


def test_refuses_other_options(run) -> None:
    assert run("--oldest").returncode == 2
