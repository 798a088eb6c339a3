"""The picture of ``growth.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PICTURE = Path(__file__).with_name("growth.svg")


def draw(panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    pass
