"""What tests need that run servers on ports of this machine."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class HeldPort:
    """A port of the loopback interface that nobody else is given while it is held.

    A server that is told its number can listen there, end, and listen there again; until one does,
    connections are refused. For a socket of ours is bound to the port and does not listen: so the
    kernel chooses it for no other socket, and lets those share it that ask for it by its number
    with SO_REUSEADDR, as servers do.

    Only Linux lets them. Elsewhere this is a port on which nobody listened when it was chosen.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


def wait_for(what: str, ask: Callable[[], T], timeout: float = 60.0, every: float = 0.1) -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)
