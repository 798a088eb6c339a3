"""What is disturbed is there: schedules that name modules of earlier versions find nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.disturbance import GROUPS, functions_of


@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
def test_every_module_that_is_disturbed_is_there(group: list[Path]) -> None:
    assert [path for path in group if not path.is_file()] == []


def test_all_groups_have_lines_to_disturb() -> None:
    assert all(any(functions_of(path) for path in group) for group in GROUPS)
