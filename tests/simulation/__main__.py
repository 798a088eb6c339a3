"""Run many seeds (``--seeds 100000 --jobs 2``) or one (``--seed 17 --verbose``)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from typing import Any

from simulation.run import ORDERS, PROGRAMS, BrokenProgram, Case, little_garbage, run, run_chunk

#: Seeds that a process runs in one go, and failures after which it is enough.
CHUNK = 500
ENOUGH = 10
#: Seconds between two lines about how far it is.
TELL_EVERY = 10.0


def main() -> int:
    """Return 0 when all is well, 1 when a promise was broken."""
    options = parse()
    chosen = {"program": options.program, "order": options.order}
    if options.seed is not None:
        return run_one(Case(options.seed, steps=options.steps, **chosen), options.verbose)
    return run_many(options.start, options.seeds, options.jobs, chosen)


def parse() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many to run")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes to run them in")
    parser.add_argument("--seed", type=int, help="run just this one")
    parser.add_argument("--program", choices=[*PROGRAMS], default="", help="of this kind only")
    parser.add_argument("--order", choices=[*ORDERS, "single"], help="how callbacks are ordered")
    parser.add_argument("--steps", type=to_steps, help="with --seed: only these steps, as 1,5,6")
    parser.add_argument("--verbose", action="store_true", help="with --seed: tell what happens")
    return parser.parse_args()


def to_steps(text: str) -> tuple[int, ...]:
    """Numbers with commas between them, or ``none``."""
    return () if text == "none" else tuple(int(number) for number in text.split(","))


def run_one(case: Case, verbose: bool) -> int:
    """Run one program."""
    kind, order, stalls = case.what()
    print(f"seed {case.seed}: {kind.name} program, {order}, stalls {stalls:g}")
    try:
        with little_garbage():
            program = run(case)
    except BrokenProgram as broken:
        if verbose:
            print(broken.story)
        print(f"BROKEN: {broken.rule}")
        return 1
    if verbose:
        print(program.story())
    print("all is well")
    return 0


def run_many(start: int, seeds: int, jobs: int, chosen: dict[str, Any]) -> int:
    """Run many programs, and tell how far it is."""
    began = told = time.monotonic()
    done, failures = 0, 0
    for count, found in in_processes(start, seeds, jobs, chosen):
        done += count
        for text in found:
            failures += 1
            print(text, flush=True)
        now = time.monotonic()
        if now > told + TELL_EVERY or done == seeds:
            told = now
            speed = done / (now - began)
            print(f"{done} of {seeds} seeds, {failures} failed, {speed:.0f}/s", flush=True)
        if failures >= ENOUGH:
            print(f"{failures} failures are enough")
            break
    return 1 if failures else 0


def in_processes(
    start: int, seeds: int, jobs: int, chosen: dict[str, Any]
) -> Iterator[tuple[int, list[str]]]:
    """Run the seeds in chunks; yield how many were run, and what failed among them."""
    chunks = [
        (first, min(CHUNK, start + seeds - first)) for first in range(start, start + seeds, CHUNK)
    ]
    if jobs <= 1:
        for first, count in chunks:
            yield run_chunk(first, count, chosen)
        return
    todo = iter(chunks)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running = {pool.submit(run_chunk, *one, chosen) for one in islice(todo, 2 * jobs)}
        try:
            while running:
                future = next(as_completed(running))
                running.discard(future)
                running |= {pool.submit(run_chunk, *one, chosen) for one in islice(todo, 1)}
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
