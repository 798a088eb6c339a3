"""What a worker holds is taken from it in the very moment in which it finishes."""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import Any

from penstock.sync.accounts import SharedAccounts
from penstock.sync.bridge import Bridge
from penstock.sync.desks import Desk


class Interrupted:
    """A lock before which something else happens, once."""

    def __init__(self, meanwhile: Any) -> None:
        self._lock = threading.RLock()
        self._meanwhile = [meanwhile]

    def __enter__(self) -> None:
        while self._meanwhile:
            self._meanwhile.pop()()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def test_an_item_that_was_counted_as_processed_stays_so_and_is_not_given_back() -> None:
    bridge: Bridge[str] = Bridge(1)
    accounts = SharedAccounts(bridge)
    desk = Desk(bridge, accounts)
    assert bridge.offer("a", None, copy_context())
    assert desk.take() is not None
    seen: list[int] = []

    def finish() -> None:
        desk.processed += 1
        seen.append(accounts.all_processed)

    accounts._lock = Interrupted(finish)  # type: ignore[assignment]
    assert not desk.surrender()
    assert [*seen, accounts.all_processed] == [1, 1]
    assert bridge.snapshot() == []
