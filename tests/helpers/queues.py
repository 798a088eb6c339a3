"""Queues: to fill them."""

from __future__ import annotations

from typing import Any

from penstock.protocols import Queue


async def put_all(queue: Queue[Any], *items: Any) -> None:
    """Put them into a queue that has room for them."""
    for item in items:
        assert await queue.put(item, timeout=0) is True
