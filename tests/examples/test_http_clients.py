"""The examples for aiohttp and requests: all items are fetched, within the limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.real_time
@pytest.mark.parametrize("client", ["aiohttp", "requests"])
def test_every_item_is_fetched(client: str) -> None:
    pytest.importorskip(client)
    printed = subprocess.run(
        [sys.executable, EXAMPLES / f"{client}_client.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "answered  {200: 150}" in printed
    sent = re.search(r"sent      (\d+), (\d+) of them again", printed)
    assert sent is not None
    assert int(sent[1]) == 150 + int(sent[2])
