"""Two thousand random programs; ``make simulate SEEDS=100000`` runs more.

A failure tells the story of its program and the command that runs just that one again.
"""

from __future__ import annotations

import pytest

from simulation.run import shrink, simulate

SEEDS = 2000
CHUNK = 50


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_programs(first: int) -> None:
    for broken in simulate(first, CHUNK):
        if broken is not None:
            raise shrink(broken)
