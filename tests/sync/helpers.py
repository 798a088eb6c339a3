"""What tests with threads have in common. Every wait has a bound."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

#: Seconds after which something that should have happened has not.
BOUND = 60.0

#: Kinds of worker functions, for :func:`kind_of`.
KINDS = ["async", "plain"]


def kind_of(kind: str, func: Any) -> Any:
    """The plain ``func`` as it is, or an async function that does the same."""
    if kind == "plain":
        return func

    async def work(item: Any) -> Any:
        return func(item)

    return work


def in_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call ``func`` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(func(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="test", daemon=True).start()
    return future


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    give_up_at = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < give_up_at, "this should have happened by now"
        time.sleep(0.001)


def queue_threads() -> set[threading.Thread]:
    """The threads of queues that there are."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("penstock-")}


class Held:
    """A worker function that notes what it gets and can be held up: plain, or async by ``work``."""

    def __init__(self) -> None:
        self.began: list[Any] = []
        self.done: list[Any] = []
        self.may_go_on = threading.Event()

    def __call__(self, item: Any) -> Any:
        self.began.append(item)
        assert self.may_go_on.wait(BOUND)
        self.done.append(item)
        return item

    async def work(self, item: Any) -> Any:
        import asyncio

        self.began.append(item)
        while not self.may_go_on.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        self.done.append(item)
        return item


def run_program(
    source: str, *, timeout: float = 2 * BOUND, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, with every warning an error.

    But for asyncio's in dev mode that a step took long: that is the machine's doing.
    """
    outcome = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    outcome.stderr = re.sub(r"(?m)^Executing <.*> took .* seconds\n", "", outcome.stderr)
    return outcome
