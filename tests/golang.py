"""Programs that tests need, built from source with Go: once, since they stay in ``.cache``.

Building is a step of its own (``make nats-server``, the first part of ``make e2e``): no test waits
for a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"

#: Seconds between two lines that say that a build goes on.
PROGRESS = 10.0


class MissingError(Exception):
    """Something that is needed is not there, or cannot be made. The message says what and why."""


def installed(package: str, version: str, built: Path, hint: str) -> Path:
    """The program of a package, built as the file ``built`` if that is not there yet.

    ``hint`` says how long it takes.
    """
    if not built.exists():
        say(f"building {built.name}: {hint}")
        with folder(built.parent) as work:
            go("install", "-v", f"{package}@{version}", cwd=Path(work), GOBIN=work)
            (made,) = Path(work).iterdir()  # Go names it after the module, or the folder
            shutil.move(made, built)
    return built


def say(text: str) -> None:
    """Print a line of progress at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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
    return run(["go", *arguments], cwd, **more)


def run(command: Sequence[str | Path], cwd: Path, **more: str) -> str:
    """Run a command that may take minutes, and return what it printed.

    Every ten seconds it says that the command still runs, and how many lines the command printed
    as its progress: Go prints one for each package.
    """
    name = " ".join([Path(command[0]).name, *map(str, command[1:2])])
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as progress,
        subprocess.Popen(
            command, cwd=cwd, env=environment(**more), stdout=output, stderr=progress
        ) as process,
    ):
        while True:
            try:
                code = process.wait(PROGRESS)
                break
            except subprocess.TimeoutExpired:
                lines = _read(progress).count("\n")
                say(f"  {name}: {time.monotonic() - began:.0f} s, {lines} packages or steps")
        if code:
            raise MissingError(f"{name}: {(_read(output) + _read(progress))[-3000:]}")
        return _read(output)


def _read(file: tempfile._TemporaryFileWrapper[str]) -> str:
    # By a place of its own: the command writes at the end.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")
