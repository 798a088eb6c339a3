"""The clock by which limits, retries, breaker and deadlines go."""

from __future__ import annotations

import time
from asyncio import _get_running_loop


def now() -> float:
    """Seconds, by the running event loop's clock, which may be virtual, or the monotonic one."""
    loop = _get_running_loop()
    return time.monotonic() if loop is None else loop.time()
