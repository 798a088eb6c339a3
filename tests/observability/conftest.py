"""Prometheus and promtool, where they are installed. In CI they must be."""

from __future__ import annotations

import os
import shutil

import pytest


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is missing (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    return _command("promtool")


@pytest.fixture(scope="session")
def prometheus_command() -> str:
    return _command("prometheus")
