"""An SDK that keeps everything in memory, and a clock that is the loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from telemetry.recorder import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What is recorded with no sampler and no view."""
    recorder = Recorder()
    yield recorder
    recorder.shutdown()


@pytest.fixture
def exact_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits and durations in virtual seconds."""
    monkeypatch.setattr(
        "penstock.telemetry.spans._clock", lambda: asyncio.get_running_loop().time()
    )
