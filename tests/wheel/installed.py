"""Run among the tests of the wheel: they must see the package that is installed."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import penstock


def test_the_installed_package_is_tested() -> None:
    installed = Path(sysconfig.get_path("purelib")).resolve()
    assert Path(penstock.__file__).resolve().is_relative_to(installed)
