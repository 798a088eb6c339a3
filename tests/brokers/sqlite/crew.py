"""Processes that use the queue of one file, each by a role below. They meet at barriers and pipes.

They are started anew (spawn), since SQLite does not bear a fork.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brokers.sqlite.helpers import Opened

BOUND = 60.0
_spawn = multiprocessing.get_context("spawn")


class Member:
    """A process with a role, and the pipe to it."""

    def __init__(self, role: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=role, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """What it says next."""
        assert self.pipe.poll(BOUND), "it said nothing"
        return self.pipe.recv()

    def all_it_said(self) -> list[Any]:
        """What it says until it ends."""
        heard = []
        try:
            while self.pipe.poll(BOUND):
                heard.append(self.pipe.recv())
        except EOFError:
            return heard
        raise AssertionError("it does not end")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.join(BOUND)


def barrier(parties: int) -> Any:
    return _spawn.Barrier(parties, timeout=BOUND)


# -- roles --------------------------------------------------------------------------------------


def put_once_each(pipe: Any, path: Path, meet: Any, items: list[int], maxsize: int) -> None:
    """Put the items once each, and say which were accepted."""
    meet.wait()  # all open the file at once, which is new
    queue = Opened(path, maxsize=maxsize)
    meet.wait()
    pipe.send([item for item in items if queue.put(str(item).encode()) == [True]])
    queue.close()


def put_until_killed(pipe: Any, path: Path, first: int) -> None:
    """Put, and say of each item that it was accepted."""
    queue = Opened(path, maxsize=100_000)
    for item in range(first, first + 100_000):
        assert queue.put(str(item).encode()) == [True]
        pipe.send(item)


def take_and_hold(pipe: Any, path: Path, most: int, settings: dict[str, Any]) -> None:
    """Take items, say which, and wait to be killed."""
    queue = Opened(path, **settings)
    pipe.send(queue.take_data(most))
    pipe.recv()


def take_all(pipe: Any, path: Path, meet: Any, settings: dict[str, Any]) -> None:
    """Take items one by one until there are none; say of each that it is done."""
    queue = Opened(path, **settings)
    meet.wait()
    while items := queue.take():
        assert queue.done(items[0].lease) == [True]
        pipe.send(items[0].data)
    queue.close()


def take_until_killed(pipe: Any, path: Path, settings: dict[str, Any]) -> None:
    """Take items one by one; say of each that its call has ended, before it is settled."""
    queue = Opened(path, **settings)
    while items := queue.take():
        pipe.send(items[0].data)
        queue.done(items[0].lease)
