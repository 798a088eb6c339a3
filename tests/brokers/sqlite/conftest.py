from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.sqlite.helpers import Clock, Opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_queue(path: Path, clock: Clock) -> Iterator[Callable[..., Opened]]:
    """Open the queue of the test, as many times as it likes."""
    opened: list[Opened] = []

    def open_one(name: str = "calls", **settings: Any) -> Opened:
        queue = Opened(path, name, clock=clock, **settings)
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        queue.close()
