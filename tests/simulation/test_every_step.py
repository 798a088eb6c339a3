"""Each call of each play, cancelled before each step; and cancelled once more soon after."""

from __future__ import annotations

import pytest

from simulation.every_step import PLAYS, all_strikes, play
from simulation.run import little_garbage


@pytest.mark.parametrize("name", PLAYS)
def test_a_play_ends_well_wherever_one_of_its_calls_is_cancelled(name: str) -> None:
    with little_garbage():
        play(name, {})
        for strikes in all_strikes(name):
            play(name, strikes)


@pytest.mark.long
@pytest.mark.parametrize("name", PLAYS)
def test_a_play_ends_well_wherever_one_of_its_calls_is_cancelled_twice(name: str) -> None:
    with little_garbage():
        for strikes in all_strikes(name, twice=True):
            play(name, strikes)
