"""The Pythons of this machine: `make test-all` and `make test-newest` ask.

    python tests/pythons.py            VERSION=PATH of each, on a line of its own
    python tests/pythons.py --newest   of the newest one only
    python tests/pythons.py --missing  in words: what was found, and what was not

Looks on PATH and in pyenv's folder. Of each minor version it takes the newest release.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 10)

#: Makes an interpreter say what it is. One that cannot make virtual environments does not count,
#: nor does a free-threaded one. Within a virtual environment, the interpreter is meant that the
#: environment was made from.
_WHAT_IT_IS = """
import ensurepip, os, sys, sysconfig, venv
if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    name = "python%d.%d" % sys.version_info[:2]
    base = os.path.join(sys.base_prefix, "bin", name)
    print(*sys.version_info, sys.executable if sys.prefix == sys.base_prefix else base)
"""

Version = tuple[int, int, int, str, int]


def supported() -> list[str]:
    """The minor versions that the package says it runs on."""
    settings = Path(__file__).parents[1] / "pyproject.toml"
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', settings.read_text("utf-8"))


def candidates() -> Iterator[Path]:
    """What may be a Python. pyenv's shims are among it, whether or not they lead anywhere."""
    for folder in os.get_exec_path():
        for path in sorted(Path(folder).glob("python*")):
            if re.fullmatch(r"python(3(\.\d+)?)?", path.name):
                yield path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/*/bin/python"))


def ask(path: Path) -> tuple[Version, str] | None:
    """Its version, and where it really is; None if it is no Python that can be used."""
    try:
        asked = subprocess.run(
            [path, "-I", "-c", _WHAT_IT_IS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        major, minor, micro, level, serial, where = asked.stdout.rstrip("\n").split(" ", 5)
        return (int(major), int(minor), int(micro), level, int(serial)), where
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def found() -> dict[str, tuple[str, str]]:
    """By minor version, the oldest one first: the release, and the path of its interpreter."""
    answers = [answer for path in candidates() if (answer := ask(path)) is not None]
    newest: dict[tuple[int, int], tuple[Version, str]] = {}
    for version, where in answers:
        minor = version[:2]
        if minor >= OLDEST and (minor not in newest or version > newest[minor][0]):
            newest[minor] = version, where
    return {
        f"{major}.{minor}": (f"{major}.{minor}.{version[2]}", where)
        for (major, minor), (version, where) in sorted(newest.items())
    }


def main(*options: str) -> int:
    pythons = found()
    if options == ("--missing",):
        missing = [version for version in supported() if version not in pythons]
        print("Pythons found:", ", ".join(release for release, _ in pythons.values()) or "none")
        print("Supported, and NOT found:" if missing else "None is missing.", ", ".join(missing))
        return 0
    lines = [f"{version}={where}" for version, (_, where) in pythons.items()]
    if options == ("--newest",):
        lines = lines[-1:]
    elif options:
        print(__doc__, file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    return 0 if lines else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
