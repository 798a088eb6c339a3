"""Async tests run in virtual time; those marked ``real_time`` in an ordinary event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings

from penstock.testing import VirtualTimeLoop

# No test fails for being slow: other things run on the machine too. The long one is for nights:
# `pytest --hypothesis-profile=nightly`.
settings.register_profile("short", max_examples=100, deadline=None)
settings.register_profile("nightly", max_examples=20_000, deadline=None)
settings.load_profile("short")

# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}
