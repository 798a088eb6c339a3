"""Two versions of the package in one process, for ``guard.py``, which starts it several times.

``python -m benchmarks.guard_sides OLD NEW``: the two folders that the versions are imported from.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import logging
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from types import ModuleType
from typing import Any

PACKAGE, WORK = "penstock", "benchmarks.guard_work"
#: Slices that do not count: the interpreter learns.
WARM_UP = 2


def _take_out() -> dict[str, ModuleType]:
    """The modules of a version, which ``sys.modules`` has no more."""
    names = [name for name in sys.modules if name == WORK or name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


class Side:
    """One version of the package."""

    def __init__(self, folder: Path) -> None:
        self._modules: dict[str, ModuleType] = {}
        sys.path.insert(0, str(folder))
        with self._in_place():
            self._work: Any = importlib.import_module(WORK)
            found = Path(sys.modules[PACKAGE].__file__ or "")
        sys.path.remove(str(folder))
        if not found.is_relative_to(folder):
            raise ImportError(f"{PACKAGE} was imported from {found} and not from {folder}")

    @property
    def lines(self) -> Any:
        """What there is to be done, by names."""
        return self._work.LINES

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        # Functions import modules, too: they must get those of their own version.
        others = _take_out()
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._modules = _take_out()
            sys.modules.update(others)

    def run(self, name: str, scale: float) -> float:
        """What an item costs, in a slice."""
        line = self.lines[name]
        items = max(100, int(line.items * scale))
        gc.collect()
        with self._in_place():
            cost: float = line.run(items)
        return cost / items


def compare(old: Side, new: Side, name: str, until: float, scale: float) -> dict[str, Any]:
    """Run pairs of slices until it is so late; at least one."""
    for _ in range(WARM_UP):
        for side in (old, new):
            side.run(name, scale)
    pairs: list[tuple[float, float]] = []
    while not pairs or time() < until:
        if len(pairs) % 2:
            after, before = new.run(name, scale), old.run(name, scale)
        else:
            before, after = old.run(name, scale), new.run(name, scale)
        pairs.append((before, after))
    return {
        "unit": old.lines[name].unit,
        "old": statistics.median(before for before, _ in pairs),
        "new": statistics.median(after for _, after in pairs),
        "ratio": statistics.median(after / before for before, after in pairs),
    }


def compare_all(old: Side, new: Side, until: float, scale: float) -> dict[str, dict[str, Any]]:
    """All lines: each gets the same time, but for bytes, of which one look is enough."""
    found = {}
    timed = 0
    for name, line in old.lines.items():
        if line.unit == "bytes":
            found[name] = compare(old, new, name, 0.0, scale)
        else:
            timed += 1
    for name in old.lines:
        if name not in found:
            now = time()
            found[name] = compare(old, new, name, now + (until - now) / timed, scale)
            timed -= 1
    return found


def stay_on_one_cpu(number: int) -> None:
    """Where the system can: on another one with each number."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[number % len(cpus)]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--number", type=int, default=0, help="of this process")
    parser.add_argument("--imports", type=int, default=1, help="how often to import both")
    parser.add_argument("--until", type=float, default=0.0, help="the time to be done at")
    parser.add_argument("--scale", type=float, default=1.0, help="the size of a slice")
    given = parser.parse_args()
    logging.getLogger(PACKAGE).addHandler(logging.NullHandler())
    stay_on_one_cpu(given.number)
    gc.disable()

    found = []
    for number in range(given.imports):
        now = time()
        until = now + (given.until - now) / (given.imports - number)
        # Where a version lies in memory matters, and so which one comes first: they take turns.
        if number % 2:
            new = Side(given.new)
            old = Side(given.old)
        else:
            old = Side(given.old)
            new = Side(given.new)
        gc.collect()
        gc.freeze()
        found.append(compare_all(old, new, until, given.scale))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
