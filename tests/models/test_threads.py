"""Random programs of real threads around a blocking queue; what they noted must add up.

A failure tells the story of its program and how to run that one again, by its seed. Threads meet
as they like, so it may take some repetitions:
``PENSTOCK_SEED=17 PENSTOCK_REPEAT=50 pytest tests/models/test_threads.py -k one_seed``.
``PENSTOCK_SEEDS=1000`` runs so many seeds instead of a hundred.
"""

from __future__ import annotations

import os
import threading

import pytest

from models.threads import Program, switching_every

SEEDS = int(os.environ.get("PENSTOCK_SEEDS", "100"))
CHUNK = 10


def run_one(seed: int) -> None:
    program = Program(seed)
    try:
        with switching_every(1e-6 if seed % 3 == 0 else 0.005):
            program.run()
    except BaseException as error:
        # What still hangs must not make the next test fail, nor wait for the end of the process.
        threading.Thread(target=program.abandon, daemon=True).start()
        raise AssertionError(
            f"{program.story()}\n"
            f"{type(error).__name__}: {error}\n"
            f"Again: PENSTOCK_SEED={seed} PENSTOCK_REPEAT=50 "
            "pytest tests/models/test_threads.py -k one_seed"
        ) from error


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_threads(first: int) -> None:
    for seed in range(first, min(first + CHUNK, SEEDS)):
        run_one(seed)


def test_one_seed() -> None:
    for _ in range(int(os.environ.get("PENSTOCK_REPEAT", "1"))):
        run_one(int(os.environ.get("PENSTOCK_SEED", "0")))
