"""Makes the calls, four at a time. SIGTERM or Ctrl-C: finishes those, and leaves.

``python worker.py [LEDGER]``

The ledger stands for the service that is called: a SQLite file with a row for each id. What comes
a second time changes nothing there but a count: that is all that "at least once" asks of you.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from functools import partial

from shared import Call, work_queue

from penstock import QueueStatus


def note(ledger: str, call: Call) -> None:
    """Write down that it was made, under its own key."""
    connection = sqlite3.connect(ledger, timeout=30)
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, times)")
        connection.execute(
            "INSERT INTO calls VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET times = times + 1",
            (call["id"],),
        )
    connection.close()


async def make(ledger: str | None, call: Call) -> None:
    """One call."""
    await asyncio.sleep(0.1)  # the service takes its time
    if ledger is not None:
        await asyncio.to_thread(note, ledger, call)


async def main(ledger: str | None) -> None:
    """Work until a signal comes."""
    async with work_queue() as queue:
        queue.stop_on_signals()
        await queue.process(partial(make, ledger), num_workers=4)
        print(f"worker {os.getpid()} is ready", flush=True)
        while queue.status is not QueueStatus.STOPPED:
            await asyncio.sleep(0.1)
    print(f"worker {os.getpid()} made {queue.metrics['processed']} calls", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
