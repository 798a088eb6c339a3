"""What the tests run in processes of their own: ``program.py produce|work '{"settings": ...}'``.

Each thing that it does is noted as a line of JSON on standard output, before it goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import time
from typing import Any

from penstock import RetryPolicy, WorkQueue
from penstock.brokers.nats import NatsQueue
from penstock.brokers.sqlite import SqliteQueue
from penstock.errors import BrokerError, QueueUnknownError


def note(did: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"did": did, "at": time.monotonic(), **what}) + "\n")
    sys.stdout.flush()


def queue_of(settings: dict[str, Any]) -> Any:
    attempts = settings.pop("attempts", None)
    if attempts is not None:
        backoff = settings.pop("backoff", 0.01)
        settings["retry"] = RetryPolicy(
            attempts, on=Exception, backoff=lambda attempt, error: backoff, budget=None
        )
    return SqliteQueue(**settings) if "path" in settings else NatsQueue(**settings)


async def produce(
    *, items: list[Any], at_once: int = 1, timeout: float | None = 0, pause: float = 0, **rest: Any
) -> None:
    """Put the items, so many at once; no timeout: wait as long as it takes."""
    left = iter(items)
    queue = queue_of(rest)

    async def put_some() -> None:
        for item in left:
            try:
                accepted = await queue.put(item, timeout=math.inf if timeout is None else timeout)
            except QueueUnknownError:
                note("unknown", item=item)
            except BrokerError as error:
                note("failed", item=item, error=str(error))
            else:
                note("accepted" if accepted else "refused", item=item)
            if pause:
                await asyncio.sleep(pause)

    async with queue:
        note("ready")
        await asyncio.gather(*(put_some() for _ in range(at_once)))


async def work(
    *,
    workers: int = 1,
    takes: float = 0,
    gate: str | None = None,
    poison: list[Any] | None = None,
    on_signals: bool = False,
    stop_timeout: float | None = None,
    **rest: Any,
) -> None:
    """Process items until standard input ends, or a signal comes; fail on the poison.

    A gate is a file: items are held until it is there.
    """
    queue = WorkQueue(queue=queue_of(rest))
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    async def call(item: Any) -> None:
        note("began", item=item)
        try:
            await asyncio.sleep(takes)
            while gate is not None and not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            note("cancelled", item=item)
            raise
        if item in (poison or ()):
            note("failed", item=item)
            raise ValueError("poison")
        note("done", item=item)

    await queue.process(call, workers, lambda error, item: note("gave up", item=item))
    if on_signals:
        queue.stop_on_signals(timeout=stop_timeout)
        note("ready")
        while queue.status != "stopped":  # noqa: ASYNC110 - a signal sets no event
            await asyncio.sleep(0.01)
        note("stopped", all_done=await queue.stop())
        return
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(over.set)))
    note("ready")
    await over.wait()
    note("stopped", all_done=await queue.stop(timeout=stop_timeout))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    role = {"produce": produce, "work": work}[sys.argv[1]]
    asyncio.run(role(**json.loads(sys.argv[2])))
