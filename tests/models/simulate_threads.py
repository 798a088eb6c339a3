"""Run schedules of real threads: ``python tests/models/simulate_threads.py --seeds 100``.

A schedule that fails prints what happened, what every thread was doing, and how to run it again.
Threads meet as they like, so that may take some repetitions.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
import traceback
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from models.disturbance import WAYS
from models.thread_defects import DEFECTS, planted
from models.thread_notes import stacks
from models.thread_schedules import OPERATIONS, Schedule

COMMAND = "python tests/models/simulate_threads.py"


class FailedError(AssertionError):
    """A schedule found something; says how to run it again."""


def run_one(seed: int, operations: int = OPERATIONS, way: str | None = None) -> Schedule:
    """Run one schedule.

    Raises:
        FailedError: the queue broke a promise.
    """
    schedule = Schedule(seed, operations, way)
    again = f"{COMMAND} --first {seed} --seeds 1 --repeat 20 --operations {operations}"
    if way is not None:
        again += f" --way {way}"
    # If even those who watch hang: all stacks, and the end of the process.
    faulthandler.dump_traceback_later(schedule.whole + 60, exit=True)
    try:
        schedule.run()
    except BaseException as error:
        trace = "".join(traceback.format_exception(error))
        raise FailedError(
            f"{schedule.story_of(error)}\n{stacks()}\n{trace}\n{schedule.disturbance}\n"
            f"{type(error).__name__}: {error}\nAgain: {again}"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    return schedule


def main() -> None:
    parser = argparse.ArgumentParser(description="Run schedules of real threads.")
    parser.add_argument("--seeds", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="each so many times")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="in each (%(default)s)")
    parser.add_argument("--way", choices=WAYS, help="disturb in this way only")
    parser.add_argument(
        "--patience", type=float, default=Schedule.hangs, help="seconds until a hang is one"
    )
    parser.add_argument("--plant", choices=sorted(DEFECTS), help="break the queue in this way")
    given = parser.parse_args()
    Schedule.hangs, Schedule.whole = given.patience, 10 * given.patience
    began, items, turns = time.monotonic(), 0, 0
    with planted(given.plant):
        for number, seed in enumerate(range(given.first, given.first + given.seeds), 1):
            for _ in range(given.repeat):
                then = time.monotonic()
                schedule = run_one(seed, given.operations, given.way)
                items += len(schedule.items)
                turns += len(schedule.turns)
            print(
                f"{number}: seed {seed}, {time.monotonic() - then:.1f} s, "
                f"{len(schedule.items)} puts, {len(schedule.turns)} turns, {schedule.disturbance}",
                flush=True,
            )
    seconds = time.monotonic() - began
    print(f"{number} schedules, {items:,} puts, {turns:,} turns, no defect, {seconds:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except FailedError as failure:
        print(failure, file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # threads that hang, and queues that could not be stopped, are not waited for
