"""A queue in PostgreSQL, against psycopg used by hand: ``python -m benchmarks.postgres``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

from benchmarks import harness, servers
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
from benchmarks.postgres_clients import (
    PenstockPostgres,
    PostgresByHand,
    PostgresOneByOne,
    PostgresSlotsByHand,
    postgres_onlooker,
    prepare,
)

PENSTOCK, BY_HAND = "penstock PostgresQueue", "psycopg by hand"
#: Items in a slice.
ITEMS = 300


def contests(url: str, apart: Processes) -> list[RateContest]:
    there = partial(Way, onlooker=postgres_onlooker, url=url)
    penstock = there(PENSTOCK, PenstockPostgres)
    by_hand = [
        there(f"{BY_HAND}, a counter", PostgresByHand),
        there(f"{BY_HAND}, slots", PostgresSlotsByHand),
    ]
    working = [penstock, *by_hand, there(f"{BY_HAND}, slots, one by one", PostgresOneByOne)]
    contest = partial(RateContest, items=ITEMS, ours=PENSTOCK, by_hand=BY_HAND)
    several, elsewhere = Tasks(32), f"{apart.count} producers in processes of their own"
    return [
        contest("Put, one producer", partial(put, Tasks(1)), [penstock, *by_hand]),
        contest("Put, 32 producers", partial(put, several), [penstock, *by_hand]),
        contest(f"Put, {elsewhere}", partial(put, apart), [penstock, *by_hand]),
        contest("Get and acknowledge", get, working),
        contest("End to end, 32 producers", partial(end_to_end, several), working),
        contest(f"End to end, {elsewhere}", partial(end_to_end, apart), working),
    ]


def main() -> None:
    options = harness.options("Compare a queue in PostgreSQL with psycopg by hand.", rounds=5)
    programs = servers.find_postgres()
    if programs is None:
        print("There is no PostgreSQL server: left out", file=sys.stderr)
        return
    load = f"load {os.getloadavg()[0]:.1f} before, " if hasattr(os, "getloadavg") else ""
    with (
        servers.postgres(programs) as url,
        processes(1 if options.quick else 4) as apart,
    ):
        asyncio.run(prepare(url))
        held = contests(url, apart)
        if options.quick:
            held = held[::3]
        harness.hold(held, options)
    about = f"{harness.surroundings(('penstock', 'psycopg'))}; {load}{options.rounds} rounds"
    goals = [goal for contest in held for goal in contest.reached()]
    harness.publish(
        "a queue in PostgreSQL", harness.report(about, goals, held), write=options.write
    )


if __name__ == "__main__":
    main()
