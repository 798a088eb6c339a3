"""The Python in docs/ runs as it is written there, and what the pages point to exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A server for the blocks that need one.
from brokers.conftest import nats_program, nats_server  # noqa: F401
from penstock.telemetry import names

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))


def blocks() -> Iterator[Any]:
    for page in PAGES:
        found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, code in enumerate(found, 1):
            yield pytest.param(code, id=f"{page.stem}-{number}")


def links() -> Iterator[Any]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield pytest.param(page, target, id=f"{page.stem}-{target}")


def anchors(page: Path) -> list[str]:
    """Those that headings get: in small letters, with hyphens, without the rest."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.fixture
def environment(request: pytest.FixtureRequest, code: str) -> dict[str, str]:
    """What a block finds: a NATS server, if it asks where that is."""
    if "NATS_URL" not in code:
        return dict(os.environ)
    return {**os.environ, "NATS_URL": request.getfixturevalue("nats_server").url}


@pytest.mark.parametrize("code", list(blocks()))
def test_block_runs_without_a_warning(code: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists()
    if anchor:
        assert anchor in anchors(there)


def test_metrics_are_called_that() -> None:
    known = {value for value in vars(names).values() if isinstance(value, str)}
    for page in PAGES:
        told = re.findall(r"`(penstock\.[a-z_]+\.[a-z_.]+)`", page.read_text(encoding="utf-8"))
        assert told, page
        assert set(told) <= known
