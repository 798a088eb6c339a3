"""What tests need that run servers on ports of this machine."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: No port is taken from where the kernel takes those of outgoing connections (Linux: from 32768,
#: others: from 49152): a server that starts again shall find its own still free.
PORTS = range(20_000, 32_000)
#: Where tests run in several processes, each has ports of its own: between a look at one and its
#: use there is time for others.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OURS = PORTS[_PROCESS % 16 :: 16]


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    for port in random.SystemRandom().sample(_OURS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("there is no free port")


def wait_for(what: str, ask: Callable[[], T], timeout: float = 30.0, every: float = 0.1) -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)
