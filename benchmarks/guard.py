"""Is one version of the package slower than another? ``python -m benchmarks.guard [OLD] [NEW]``.

Two versions are compared by pairs of short slices, one of each, right after the other, in one
process. Both are imported twenty times for that, in five processes: where code lies in memory makes
one of two equal versions a percent faster than the other, and each import draws that anew. The
ratio of a line is the median over the imports of the median over the pairs. The true one lies
between the 6th and the 15th of the twenty in 96 of 100 cases, whatever their distribution is; half
of that interval is called noise.

All runs on one CPU, where the system lets a process choose, the threads as well: on two, what they
cost depends on which of them meets which, and that is several times as noisy.
"""

from __future__ import annotations

import argparse
import compileall
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from benchmarks.harness import surroundings, table

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "src/penstock"
#: The working tree, as the name of a version.
TREE = "."
#: How many processes, and how often each imports both. (Twenty in all: `between` relies on it.)
PROCESSES, IMPORTS = 5, 4
#: How much slower counts as not slower.
MARGIN = 0.02
#: Seconds that a process may take longer than it was given.
GRACE = 300.0


@dataclass(frozen=True)
class Outcome:
    """What came out for one line."""

    name: str
    unit: str
    old: float
    new: float
    #: New to old, a figure an import.
    ratios: Sequence[float]

    @classmethod
    def of(cls, name: str, found: Sequence[dict[str, Any]]) -> Outcome:
        """From what was found after each import."""
        return cls(
            name,
            found[0]["unit"],
            statistics.median(each["old"] for each in found),
            statistics.median(each["new"] for each in found),
            [each["ratio"] for each in found],
        )

    @property
    def ratio(self) -> float:
        """New to old."""
        return statistics.median(self.ratios)

    @property
    def between(self) -> tuple[float, float]:
        """Where the true ratio lies, most probably."""
        ordered = sorted(self.ratios)
        outside = len(ordered) // 4
        return ordered[outside], ordered[-1 - outside]

    @property
    def verdict(self) -> str:
        """Whether the new version is slower by more than the margin."""
        low, high = self.between
        if low > 1 + MARGIN:
            return "**slower**" if self.unit == "µs" else "**more**"
        if high <= 1 + MARGIN:
            return "not slower" if self.unit == "µs" else "not more"
        return "unclear"

    @property
    def is_worse(self) -> bool:
        """Whether it is, beyond its noise."""
        return self.verdict.startswith("**")

    def row(self) -> tuple[str, ...]:
        """Its line in the table."""
        low, high = self.between
        form = "{:.3f}" if self.unit == "µs" else "{:.0f}"
        return (
            self.name,
            f"{form.format(self.old)} {self.unit}",
            form.format(self.new),
            f"{self.ratio:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"±{100 * (high - low) / 2:.1f} %",
            self.verdict,
        )


class GitError(Exception):
    """Git said no."""


def git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True)
    except subprocess.CalledProcessError as error:
        raise GitError(error.stderr.decode(errors="replace").strip()) from None
    except OSError as error:
        raise GitError(str(error)) from None
    return done.stdout


def versions(old: str | None, new: str | None) -> tuple[str, str]:
    """Which two are to be compared."""
    if old is not None:
        return old, TREE if new is None else new
    if git("status", "--porcelain", "--", PACKAGE):
        return "HEAD", TREE
    return "HEAD~1", "HEAD"


def export(version: str, folder: Path) -> Path:
    """Put the package of a commit, or of a folder like this one, into ``folder``."""
    tree = ROOT / version
    if (tree / PACKAGE).is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tree / PACKAGE, folder / PACKAGE, ignore=ignored)
    else:
        archive = git("archive", "--format=zip", version, PACKAGE)
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
    # Else the first process would have it from the compiler, and the others from a file.
    compileall.compile_dir(folder, quiet=1)
    return (folder / PACKAGE).parent


def name_of(version: str) -> str:
    """What to call it in the report."""
    if version == TREE:
        return "the working tree"
    if (ROOT / version / PACKAGE).is_dir():
        return version
    return git("show", "--no-patch", "--format=%h %s", version).decode().strip()


def run_pairs(
    old: Path, new: Path, seconds: float, processes: int, imports: int, scale: float
) -> list[dict[str, dict[str, Any]]]:
    """Start one process after the other; what was found after each import, by lines."""
    found = []
    end = time() + seconds
    for number in range(processes):
        print(f"{number + 1} of {processes}", file=sys.stderr)
        now = time()
        until = now + (end - now) / (processes - number)
        options = {"number": number, "imports": imports, "until": until, "scale": scale}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.guard_sides", str(old), str(new)]
            + [f"--{name}={value}" for name, value in options.items()],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=seconds + GRACE,
        )
        found += json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard", description="Compare the speed of two versions."
    )
    parser.add_argument(
        "old",
        nargs="?",
        help="a commit, or a folder like this one (. is the working tree). Unless given: HEAD if "
        "src has changes, to be compared with them; else the one before HEAD, and HEAD",
    )
    parser.add_argument("new", nargs="?", help="another; default: the working tree")
    parser.add_argument(
        "--seconds", type=float, default=110.0, help="for the whole; default: %(default)g"
    )
    parser.add_argument("--quick", action="store_true", help="a few short slices: does it run?")
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with 1 if a line is slower by more than {MARGIN * 100:g} %% and its noise",
    )
    given = parser.parse_args()
    try:
        chosen = versions(given.old, given.new)
        names = [name_of(version) for version in chosen]
        with tempfile.TemporaryDirectory(prefix="penstock-guard-") as made:
            # Names of one length: they are part of what lies in memory.
            folders = [Path(made).resolve() / side for side in ("old", "new")]
            old, new = map(export, chosen, folders)
            if given.quick:
                found = run_pairs(old, new, 0.0, processes=1, imports=2, scale=0.1)
            else:
                found = run_pairs(old, new, given.seconds, PROCESSES, IMPORTS, scale=1.0)
    except GitError as error:
        parser.error(str(error))
    outcomes = [Outcome.of(name, [each[name] for each in found]) for name in found[0]]
    print(f"old: {names[0]}\nnew: {names[1]}\n\n{report(outcomes)}")
    sys.exit(given.strict and any(outcome.is_worse for outcome in outcomes))


HOW_TO_READ = f"""\
between: where the true ratio lies, in 96 of 100 cases. noise: half of that.

not slower: all of it is at most {1 + MARGIN:g}. slower: all of it is more. unclear: neither; give
it more --seconds, or a quieter machine."""


def report(outcomes: Sequence[Outcome]) -> str:
    """The table, and how to read it."""
    head = ("", "old", "new", "new/old", "between", "noise", "")
    about = surroundings(("opentelemetry-api", "pydantic", "janus"))
    rows = [outcome.row() for outcome in outcomes]
    return "\n\n".join([f"{about}.", table(head, rows), HOW_TO_READ])


if __name__ == "__main__":
    main()
