"""Everything at once, for a long time: ``python -m benchmarks.soak --minutes 30``.

One process has queues of both faces, with limits, retries, a breaker, results, stops and starts,
and OpenTelemetry's real SDK with a collector that is healthy, then slow, then hangs, then is gone.
Memory, threads, file descriptors and latencies are sampled once a second, and should stay level; in
the end all books must balance. What each figure means is told in ``README.md``. Needs Linux.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import asyncio
import gc
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import httpx

from benchmarks import harness, soak_picture, soak_samples
from benchmarks.soak_async import AsyncSide
from benchmarks.soak_ledger import Counts
from benchmarks.soak_samples import Row
from benchmarks.soak_telemetry import Sdk
from benchmarks.soak_threads import ThreadSide

ROOT = Path(__file__).resolve().parents[1]
KEPT, TRIED = ROOT / "benchmarks" / "soak", ROOT / "build" / "soak"

#: How the collector is, and up to which share of the time.
PHASES = ((1 / 3, "healthy"), (2 / 3, "slow"), (5 / 6, "hangs"), (1.0, "gone"))
NAMES = tuple(f"collector {name}" for _, name in PHASES)
#: Lines of the CSV, at most.
LINES = 360
#: The least minutes of a run; and those in which memory can be told to be level.
SHORTEST, TELLING = 0.5, 10.0
#: Seconds between two full collections, so that garbage is not taken for a leak.
COLLECT = 10


@contextmanager
def program(module: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server that prints its address; yield that, and its process."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit(f"{module} did not start")
            yield url, process
        finally:
            process.kill()


class Soak:
    """One run."""

    def __init__(self, seconds: float, sdk: Sdk, http: httpx.AsyncClient) -> None:
        self.seconds = seconds
        self.sdk = sdk
        self.tasks = AsyncSide(sdk.telemetry, http)
        self.threads = ThreadSide(sdk.telemetry)
        self.samples = soak_samples.Samples()
        self.problems: list[str] = []
        self._blocks = 0.0

    async def run(self, collector: str, process: subprocess.Popen[str]) -> None:
        """Load everything, sample, and make the collector ill, one after the other."""
        load = asyncio.create_task(self.tasks.run())
        await asyncio.to_thread(self.threads.start)
        began = then = time.monotonic()
        cpu, phase, ended = time.process_time(), -1, self._ended()
        async with httpx.AsyncClient(base_url=collector, trust_env=False) as http:
            while (now := time.monotonic()) < began + self.seconds and not load.done():
                share = (now - began) / self.seconds
                wanted = next(number for number, (end, _) in enumerate(PHASES) if share < end)
                if wanted != phase:
                    phase = wanted
                    print(f"{(now - began) / 60:5.1f} min: {NAMES[phase]}", file=sys.stderr)
                    if PHASES[phase][1] == "gone":
                        process.kill()
                    else:
                        await http.post(f"/moods/{PHASES[phase][1]}")
                await asyncio.sleep(1 - (time.monotonic() - began) % 1)
                now = time.monotonic()
                row: Row = {"seconds": now - began, "phase": phase}
                row["cpu_percent"] = 100 * (time.process_time() - cpu) / (now - then)
                after = self._ended()
                for name, count in after.items():
                    row[f"ended_{name}_per_s"] = (count - ended[name]) / (now - then)
                self.samples.add(row | self._sample())
                cpu, then, ended = time.process_time(), now, after
        self.tasks.is_over.set()
        await load
        await asyncio.to_thread(self.threads.end)
        for side in (self.tasks, self.threads):
            self.problems += [*side.wrong, *[text for books in side.books for text in books.wrong]]

    def _ended(self) -> dict[str, int]:
        return {"async": self.tasks.ended, "threads": self.threads.ended}

    def _sample(self) -> Row:
        counts = self.sdk.counts
        if len(self.samples) % COLLECT == 0:
            gc.collect()
            self._blocks = sys.getallocatedblocks()
        return {
            **soak_samples.process_figures(),
            "blocks": self._blocks,
            "tasks": len(asyncio.all_tasks()) + self.threads.tasks,
            "waiting_async": sum(self.tasks.sizes.values()),
            "waiting_threads": sum(self.threads.sizes.values()),
            **soak_samples.latencies("async", self.tasks.puts, self.tasks.trips),
            **soak_samples.latencies("threads", self.threads.puts, self.threads.trips),
            **soak_samples.latencies("service", self.tasks.service_puts, self.tasks.service_trips),
            **{f"spans_{name}": counts[name] for name in ("waiting", "sent", "failed", "dropped")},
        }

    def report(self, picture: str, csv: str) -> str:
        """All of it, in Markdown."""
        levels, rising = soak_samples.trends(self.samples.rows, NAMES)
        problems = [*self.problems, *[f"not flat: {text}" for text in rising]]
        packages = ("penstock", "janus", "httpx", "opentelemetry-sdk")
        counts = self.sdk.counts
        spans = ", ".join(f"{counts[name]:,} {name}" for name in ("ended", "sent", "failed"))
        return "\n\n".join(
            [
                f"{harness.surroundings(packages)}; {self.seconds / 60:g} minutes.",
                f"![What was sampled]({picture})",
                f"All samples: `{csv}`.",
                "### What became of the items",
                self._books(),
                "The books balance." if not self.problems else "**The books do not balance.**",
                "### What stays level",
                levels,
                "### How long things took, and how much was done",
                self._paces(),
                f"Spans: {spans}, {counts['dropped']:,} dropped by the SDK for want of room.",
                *(["### Problems\n", "\n".join(f"- {text}" for text in problems)] * bool(problems)),
            ]
        )

    @property
    def is_well(self) -> bool:
        """Whether the books balance; and all is flat, where the time was enough to tell."""
        is_short = self.seconds < TELLING * 60
        return not self.problems and (
            is_short or not soak_samples.trends(self.samples.rows, NAMES)[1]
        )

    def _books(self) -> str:
        tasks, threads = self.tasks, self.threads
        columns: list[tuple[str, Counts]] = [
            ("async: before a service", tasks.service_books),
            ("async: steady", tasks.steady_books),
            ("async: ever new", tasks.brief_books),
            ("threads: plain workers", threads.plain_books),
            ("threads: async workers", threads.async_books),
            ("threads: ever new", threads.brief_books),
        ]
        every = Counts()
        for _, counts in columns:
            every.add(counts)
        columns.append(("all", every))
        rows = [
            (field.name.replace("_", " "), *[f"{getattr(one, field.name):,}" for _, one in columns])
            for field in fields(Counts)
        ]
        return harness.table(("", *[name for name, _ in columns]), rows)

    def _paces(self) -> str:
        table = []
        names = [column.name for column in soak_samples.COLUMNS]
        shown = [name for name in names if name.endswith(("_ms", "_per_s")) or name[:3] == "cpu"]
        all_rows = self.samples.rows
        for name in shown:
            cells = [name.replace("_", " ")]
            for number in range(len(NAMES)):
                rows = soak_samples.settled(all_rows, number)
                cells.append(f"{_median(rows, name):.2f}" if rows else "")
            table.append(tuple(cells))
        return harness.table(("median of each second's", *NAMES), table)


def _median(rows: soak_samples.Rows, name: str) -> float:
    values = sorted(row[name] for row in rows if row[name] == row[name])
    return values[len(values) // 2] if values else float("nan")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Everything at once, for a long time.")
    parser.add_argument("--minutes", type=float, default=30, help="default: %(default)s")
    parser.add_argument(
        "--write", action="store_true", help=f"put the report into README.md and {KEPT.name}/"
    )
    given = parser.parse_args()
    if not given.minutes >= SHORTEST:
        parser.error(f"--minutes must be at least {SHORTEST:g}")
    return given


async def _soak(seconds: float) -> Soak:
    with program("benchmarks.limited_server") as (service, _):
        with program("benchmarks.soak_collector") as (collector, process):
            sdk = Sdk(collector)
            async with httpx.AsyncClient(base_url=service, timeout=30, trust_env=False) as http:
                soak = Soak(seconds, sdk, http)
                await soak.run(collector, process)
        await asyncio.to_thread(sdk.close)
    return soak


def main() -> None:
    given = _options()
    soak_samples.require_linux()
    os.environ["NO_PROXY"] = "127.0.0.1"  # for the exporter
    # What is meant to go wrong need not be told; and a queue that nobody stopped says so.
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", ".*was not stopped", ResourceWarning)
    gc.collect()
    gc.freeze()  # what is there by now is not for each collection to look through
    soak = asyncio.run(_soak(given.minutes * 60))
    folder = KEPT if given.write else TRIED
    folder.mkdir(parents=True, exist_ok=True)
    rows = soak_samples.condense(soak.samples.rows, LINES)
    soak_samples.write_csv(folder / "soak.csv", rows, NAMES)
    title = f"{given.minutes:g} minutes of everything at once"
    soak_picture.draw(folder / "soak.svg", rows, NAMES, title)
    report = soak.report("soak/soak.svg", "soak/soak.csv")
    harness.publish("a soak", report, write=given.write)
    print(f"{folder / 'soak.svg'} and {folder / 'soak.csv'} are written", file=sys.stderr)
    if not soak.is_well:
        raise SystemExit("The books do not balance, or something rises: see the report")


if __name__ == "__main__":
    main()
