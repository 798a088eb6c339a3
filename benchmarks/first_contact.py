"""One job by five small programs: ``python -m benchmarks.first_contact``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import ast
import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from urllib.request import Request, urlopen

from benchmarks import harness
from benchmarks.limited_server import Service, minimum
from benchmarks.rate_limited_server import server

JOBS = Path(__file__).with_name("one_job")
PROGRAMS = (
    "penstock_async",
    "penstock_threads",
    "queue_aiolimiter_tenacity",
    "thread_pool_tenacity",
    "gather",
)
ITEMS = 400
SERVICE = Service(calls=40, at_once=50, latency=0.1, errors=0.0)


@dataclass(frozen=True)
class Outcome:
    """What came of one program's job."""

    seconds: float
    refused: int
    lost: int
    doubled: int


def lines(program: str) -> int:
    """How many lines have code: no blank ones, no docstring."""
    source = (JOBS / f"{program}.py").read_text("utf-8")
    docstring = ast.parse(source).body[0].end_lineno or 0
    return sum(bool(line.strip()) for line in source.splitlines()[docstring:])


def title(program: str) -> str:
    doc = ast.get_docstring(ast.parse((JOBS / f"{program}.py").read_text("utf-8")))
    assert doc is not None
    return doc.rstrip(".")


def ask(url: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data)) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def run(program: str, url: str, items: int) -> Outcome:
    """Let one program do the job in a process of its own; the server says what happened there."""
    job = ask(f"{url}/jobs", asdict(SERVICE))["job"]
    command = [sys.executable, str(JOBS / f"{program}.py"), f"{url}/jobs/{job}/", str(items)]
    begin = perf_counter()
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    seconds = perf_counter() - begin
    report = ask(f"{url}/jobs/{job}")
    answers, done = Counter(report["answers"]), Counter(report["done"])  # type: ignore[call-overload]
    answered = set(printed.split()) & done.keys()
    return Outcome(seconds, answers["429"], items - len(answered), done.total() - len(done))


def main() -> None:
    options = harness.options("Do one job by five small programs.", rounds=3)
    items = 60 if options.quick else ITEMS
    outcomes: dict[str, list[Outcome]] = {program: [] for program in PROGRAMS}
    with server() as url:
        for _ in range(options.rounds):
            for program in random.sample(PROGRAMS, len(PROGRAMS)):
                outcomes[program].append(run(program, url, items))
                print(f"{program}: {outcomes[program][-1]}", file=sys.stderr)
    rows = [
        (
            title(program),
            str(lines(program)),
            f"{statistics.median(one.seconds for one in found):.1f}",
            str(statistics.median_high(one.refused for one in found)),
            str(max(one.lost for one in found)),
        )
        for program, found in outcomes.items()
    ]
    table = harness.table(("", "lines of code", "seconds", "answers of 429", "lost"), rows)
    packages = ("penstock", "httpx", "requests", "tenacity", "aiolimiter")
    about = f"{harness.surroundings(packages)}; rounds: {options.rounds}"
    least = f"{items} calls; none can be done in less than {minimum(SERVICE, [0] * items):.1f} s."
    report = f"{about}.\n\n{least}\n\n{table}"
    harness.publish("first contact", report, write=options.write)


if __name__ == "__main__":
    main()
