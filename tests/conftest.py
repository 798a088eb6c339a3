"""Async tests run in virtual time; those marked ``real_time`` in an ordinary event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from penstock.testing import VirtualTimeLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}
