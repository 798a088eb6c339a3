"""Programs that tests need, built from source with Go: once, since they stay in ``.cache``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"


class MissingError(Exception):
    """Something that is needed is not there, or cannot be made. The message says what and why."""


def installed(package: str, version: str, built: Path, hint: str) -> Path:
    """The program of a package, built as the file ``built`` if that is not there yet.

    ``hint`` says how long it takes.
    """
    if not built.exists():
        say(f"building {built.name}: {hint}")
        with folder(built.parent) as work:
            go("install", f"{package}@{version}", cwd=Path(work), GOBIN=work)
            (made,) = Path(work).iterdir()  # Go names it after the module, or the folder
            shutil.move(made, built)
    return built


def say(text: str) -> None:
    """Tell whoever waits what for; ``pytest -s`` lets it through."""
    sys.stderr.write(f"{text}\n")


def folder(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A new folder to build in."""
    cache.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=cache, prefix="build-")


def environment(**more: str) -> dict[str, str]:
    """What Go's commands see: pure Go needs no C compiler."""
    return os.environ | {"CGO_ENABLED": "0"} | more


def go(*arguments: str, cwd: Path, **more: str) -> str:
    """Run a command of Go and return what it printed."""
    if shutil.which("go") is None:
        raise MissingError("go is missing (Go 1.25 or newer)")
    done = subprocess.run(
        ["go", *arguments],
        cwd=cwd,
        env=environment(**more),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise MissingError(f"go {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
