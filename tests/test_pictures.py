"""The pictures of the documentation can be made anew, and are small."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from chromium import find_chromium

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_the_pictures_can_be_made(tmp_path: Path) -> None:
    find_chromium()
    command = [sys.executable, str(PICTURES / "make.py"), "--folder", str(tmp_path)]
    subprocess.run([*command, "--count", "40", "--port", "0"], check=True, timeout=120)
    progress = (tmp_path / "progress.svg").read_text(encoding="utf-8")
    assert "/40" in progress
    assert "of&#160;24/s" in progress
    assert "throughput" in (tmp_path / "bill.svg").read_text(encoding="utf-8")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("picture", ["progress.svg", "bill.svg", "report.png"])
def test_a_picture_is_small_and_loads_nothing(picture: str) -> None:
    data = (PICTURES / picture).read_bytes()
    assert 1000 < len(data) < 200_000
    assert b"url(http" not in data
    assert b"@import" not in data


def test_the_pictures_of_figures_are_those_of_the_tables() -> None:
    drawing = runpy.run_path(str(PICTURES / "draw_figures.py"))
    for picture in drawing["PICTURES"]:
        drawn = (PICTURES / picture.file).read_text(encoding="utf-8")
        assert drawn == drawing["draw"](picture), "run docs/pictures/draw_figures.py"
        assert drawn.count("<rect") > 3
