"""A queue in a file, against sqlite3 used by hand: ``python -m benchmarks.sqlite``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.brokers import (
    Processes,
    RateContest,
    Tasks,
    Way,
    end_to_end,
    get,
    processes,
    put,
)
from benchmarks.sqlite_clients import (
    PenstockSqlite,
    SqliteByHand,
    SqliteByHandInBatches,
    sqlite_onlooker,
)

PENSTOCK, BY_HAND = "penstock SqliteQueue", "sqlite3 by hand"
#: Items in a slice: a disk takes a millisecond or more for each that is put alone.
ITEMS = 300


def contests(path: str, apart: Processes) -> list[RateContest]:
    in_file = partial(Way, onlooker=sqlite_onlooker, url=path)
    penstock = in_file(PENSTOCK, PenstockSqlite)
    putting = [penstock, in_file(BY_HAND, SqliteByHand)]
    working = [*putting, in_file(f"{BY_HAND}, batches of ten", SqliteByHandInBatches)]
    contest = partial(RateContest, items=ITEMS, ours=PENSTOCK, by_hand=BY_HAND)
    several, elsewhere = Tasks(32), f"{apart.count} producers in processes of their own"
    return [
        contest("Put, one producer", partial(put, Tasks(1)), putting),
        contest("Put, 32 producers", partial(put, several), putting),
        contest(f"Put, {elsewhere}", partial(put, apart), putting),
        contest("Get and acknowledge", get, working),
        contest("End to end, 32 producers", partial(end_to_end, several), working),
        contest(f"End to end, {elsewhere}", partial(end_to_end, apart), working),
    ]


def main() -> None:
    options = harness.options("Compare a queue in a file with sqlite3 by hand.", rounds=5)
    load = f"load {os.getloadavg()[0]:.1f} before, " if hasattr(os, "getloadavg") else ""
    with (
        tempfile.TemporaryDirectory() as folder,
        processes(1 if options.quick else 4) as apart,
    ):
        held = contests(str(Path(folder) / "queue.db"), apart)
        if options.quick:
            held = held[::3]
        harness.hold(held, options)
    about = f"{harness.surroundings(('penstock',))}; {load}{options.rounds} rounds"
    goals = [goal for contest in held for goal in contest.reached()]
    harness.publish("a queue in a file", harness.report(about, goals, held), write=options.write)


if __name__ == "__main__":
    main()
