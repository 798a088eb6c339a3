"""``penstock run``, against a loop on aiohttp: ``python -m benchmarks.run_command``.

Both read the same lines, send them 50 at once to a server on this machine that answers at once,
and write the answers. Then the memory of a long file, and a run at exactly the rate that a server
states. What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from benchmarks import harness
from benchmarks.harness import Contest, Contestant, Goal
from benchmarks.limited_server import Service, minimum

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 50
RUN, PLAIN = "penstock run", "a loop on aiohttp"

CPU_GOAL, PACE_GOAL, MEMORY_GOAL = 2.5, 2_500, 120
REFUSED_GOAL, TIME_GOAL = 1.0, 1.10


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds of a clock, seconds of CPU, and MB of memory at most."""

    seconds: float
    cpu: float
    megabytes: float


def run(command: Sequence[str], folder: Path) -> Usage:
    """Run a program to its end."""
    begin = perf_counter()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - begin
    if process.returncode:
        raise SystemExit((folder / "said").read_text())
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)


def penstock(folder: Path, lines: Path, url: str, *options: str) -> Usage:
    """Run the command."""
    out = folder / "results.jsonl"
    out.unlink(missing_ok=True)
    arguments = ("run", str(lines), "--url", url, "--out", str(out), *options)
    return run(("-m", "penstock.cli", *arguments), folder)


def plain(folder: Path, lines: Path, url: str) -> Usage:
    """Run the loop."""
    out = str(folder / "plain.jsonl")
    return run(("-m", "benchmarks.plain_aiohttp", str(lines), url, out, str(AT_ONCE)), folder)


def write_lines(folder: Path, count: int) -> Path:
    """Make a file of so many small POSTs."""
    path = folder / f"requests-{count}.jsonl"
    if not path.exists():
        with path.open("w") as file:
            for number in range(count):
                body = {"name": f"item {number}", "amount": number % 100}
                line = {"id": f"r{number}", "method": "POST", "path": f"/items/{number}"}
                file.write(json.dumps(line | {"json": body}) + "\n")
    return path


@contextmanager
def server(module: str) -> Iterator[str]:
    """Run a server and yield its address."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            yield url
        finally:
            process.terminate()


def at_the_rate(folder: Path, url: str, window: str, count: int) -> tuple[float, float]:
    """Run at exactly the server's rate: per cent refused, and the time over the least."""
    service = Service(calls=40, window="sliding", at_once=1_000, latency=0.05, errors=0.0)
    settings = asdict(service) | {"window": window}
    asked = urllib.request.Request(f"{url}/jobs", json.dumps(settings).encode(), method="POST")
    with urllib.request.urlopen(asked) as answer:
        job = json.load(answer)["job"]
    lines = folder / f"rate-{count}.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"method": "POST", "path": f"/items/{number}"}) + "\n"
            for number in range(count)
        )
    )
    base = f"{url}/jobs/{job}"
    one = folder / "one.jsonl"
    one.write_text('{"path": ""}\n')
    start = penstock(folder, one, base).seconds  # Python starts, and imports
    used = penstock(folder, lines, base, "--rate", "40/s", "--concurrency", "40")
    with urllib.request.urlopen(base) as answer:
        answers = json.load(answer)["answers"]
    least = minimum(Service(**settings), [0] * count)
    return 100 * answers.get("429", 0) / sum(answers.values()), (used.seconds - start) / least


def main() -> None:
    options = harness.options("Run the command against a loop on aiohttp.", rounds=5)
    count, many = int(20_000 * options.scale), int(100_000 * options.scale)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paces: list[float] = []
        with server("quick_server") as url:
            lines = write_lines(folder, count)

            def command(items: int) -> float:
                used = penstock(folder, lines, url, "--concurrency", str(AT_ONCE))
                paces.append(items / used.cpu)
                return used.cpu

            contest = Contest(
                f"{count:,} small POSTs, {AT_ONCE} at once",
                PLAIN,
                [
                    Contestant(PLAIN, lambda items: plain(folder, lines, url).cpu, count),
                    Contestant(RUN, command, count),
                ],
                {RUN: CPU_GOAL},
            )
            contest.hold(options.rounds, warm_up=not options.quick)
            print("memory", file=sys.stderr)
            memory = penstock(
                folder, write_lines(folder, many), url, "--concurrency", str(AT_ONCE)
            ).megabytes
        goals = [
            *contest.reached(),
            Goal("requests a second of CPU", PACE_GOAL, max(paces), "{:.0f}", at_least=True),
            Goal(f"MB of memory for {many:,} lines", MEMORY_GOAL, memory, "{:.0f}"),
        ]
        with server("limited_server") as url:
            at_the_rate(folder, url, "sliding", 40)  # the server's own start is over then
            for window in ("sliding", "fixed"):
                print(f"{window} window", file=sys.stderr)
                refused, over = at_the_rate(folder, url, window, int(800 * options.scale))
                goals += [
                    Goal(f"{window} window: refused, per cent", REFUSED_GOAL, refused, "{:.1f}"),
                    Goal(f"{window} window: time over the least", TIME_GOAL, over),
                ]
    about = f"{harness.surroundings(('penstock', 'aiohttp'))}; rounds: {options.rounds}"
    harness.publish("the command", harness.report(about, goals, [contest]), write=options.write)


if __name__ == "__main__":
    main()
