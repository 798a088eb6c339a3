"""How cost grows with the number of things: ``python -m benchmarks.growth``.

What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import gc
import math
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time

from benchmarks import growth_limits, growth_picture, growth_queue, growth_threads, harness
from benchmarks.growth_series import Series
from benchmarks.harness import Goal, Spread

#: What tenfold the number may cost at most, as a power of ten: twice as much for each. What grows
#: with n log n, and what leaves the caches of a processor, stays below; a square is far above.
TOLERANCE = 1.3
#: Seconds of CPU that a sample has at least; and those after which it is sampled no more.
LEAST, ENOUGH = 0.02, 20.0


@dataclass
class Growth:
    """A series, and what came out, by number; a figure a round."""

    series: Series
    cpu: dict[int, list[float]] = field(default_factory=dict)
    wall: dict[int, list[float]] = field(default_factory=dict)
    bytes: dict[int, float] = field(default_factory=dict)

    def hold(self, rounds: int, quick: bool) -> None:
        """Measure, the small numbers and the great ones in turn."""
        sizes = self.series.sizes[: 2 if quick else None]
        times = dict.fromkeys(sizes, 1)
        for number in range(rounds + 1):
            for n in sizes:
                if not number:
                    # Which does not count: it says how often the small ones must run to be seen.
                    if n * 10 <= max(sizes) or quick:
                        cpu, _ = self._sample(n, 1)
                        times[n] = 1 if quick else math.ceil(LEAST / max(cpu, 1e-6))
                elif sum(self.cpu.get(n, ())) < ENOUGH:
                    cpu, wall = self._sample(n, times[n])
                    self.cpu.setdefault(n, []).append(cpu)
                    self.wall.setdefault(n, []).append(wall)
        if self.series.kept is not None:
            for n in sizes:
                if n <= self.series.kept_most:
                    self.bytes[n] = bytes_of(self.series.kept, n) / n

    def _sample(self, n: int, times: int) -> tuple[float, float]:
        """Seconds that it took once, of CPU and by the clock, from as many runs in a row."""
        gc.collect()
        cpu = wall = 0.0
        for _ in range(times):
            watch = Stopwatch()
            self.series.run(n, watch)
            cpu, wall = cpu + watch.cpu, wall + watch.wall
        return cpu / times, wall / times
