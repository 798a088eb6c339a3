"""All benchmarks, one after the other: ``python -m benchmarks``.

Each runs in a process of its own. At the end stands one table of all goals.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks import harness

ROOT = Path(__file__).resolve().parents[1]
#: The programs, and the sections of the README that they write, in its order.
PROGRAMS = {
    "queue": "queue",
    "orders": "orders",
    "threads": "threads",
    "telemetry": "telemetry",
    "brokers": "brokers",
    "limits": "limits",
    "policy": "calls without a queue",
    "http": "HTTP clients",
    "rate_limited_server": "a rate-limited server",
    "outage": "a server that is away",
    "first_contact": "first contact",
    "run_command": "the command",
    "growth": "growth",
}
#: Seconds after which a program is taken for one that hangs, and killed.
LIMIT, QUICK_LIMIT = 2_700.0, 300.0


@dataclass(frozen=True)
class Run:
    """What came of one program."""

    name: str
    seconds: float
    #: Why there are no figures; empty if there are.
    trouble: str
    report: str

    @property
    def outcome(self) -> str:
        """What is to be said of it."""
        if self.trouble:
            return f"**{self.trouble}**"
        return "ran" if self.report.strip() else "left out"  # it said why, on standard error


def run(name: str, arguments: Sequence[str], limit: float) -> Run:
    """Run one program, and show its report."""
    begin = perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    # A group of its own, so that what it started ends with it.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            kill(process)

        timer = threading.Timer(limit, give_up)
        timer.start()
        try:
            report, _ = process.communicate()
        finally:
            timer.cancel()
            kill(process)
    trouble = ""
    if late.is_set():
        trouble = f"killed after {limit:.0f} s"
    elif process.returncode:
        trouble = f"failed with {process.returncode}"
    return Run(name, perf_counter() - begin, trouble, report)


def kill(process: subprocess.Popen[str]) -> None:
    """End what is left of a program, its servers included."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def goals_of(reports: dict[str, str]) -> str:
    """The goals of all programs, in one table."""
    rows = [
        f"| {name}: {line.removeprefix('| ')}"
        for name, report in reports.items()
        for line in harness.goals_in(report)
    ]
    missed = sum("missed" in row for row in rows)
    return "\n".join(
        [f"{len(rows)} goals, {missed} missed.", "", harness.table_of_goals([]), *rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run all benchmarks.")
    harness.add_modes(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PROGRAMS,
        default=list(PROGRAMS),
        metavar="NAME",
        help=f"some of {', '.join(PROGRAMS)}",
    )
    given = parser.parse_args()
    harness.check_modes(parser, given)
    modes = [f"--{mode}" for mode in ("quick", "write") if getattr(given, mode)]

    runs = []
    for name in given.only:
        print(f"== {name}", file=sys.stderr)
        runs.append(run(name, modes, QUICK_LIMIT if given.quick else LIMIT))
        print(f"## {name}\n\n{runs[-1].report}", flush=True)

    print(f"## Goals\n\n{goals_of({run.name: run.report for run in runs})}\n")
    if given.write:  # those of the programs that did not run this time, too
        sections = {name: harness.in_readme(section) for name, section in PROGRAMS.items()}
        harness.put_into_readme("goals", goals_of(sections))
    rows = [(run.name, f"{run.seconds:.0f}", run.outcome) for run in runs]
    rows.append(("all", f"{sum(run.seconds for run in runs):.0f}", ""))
    print(harness.table(("", "seconds", ""), rows))
    sys.exit(any(run.trouble for run in runs))


if __name__ == "__main__":
    main()
