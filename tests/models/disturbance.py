"""Threads that lose the processor at the worst moment: yields and delays between lines of code.

The interpreter switches threads where it likes, and on most machines hardly ever inside a handful
of lines. This makes it switch there: threads are traced, and before a line of the queue's own code,
of its locks, or of janus, one of them may let go of the interpreter or sleep for a moment.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import janus

import penstock

_ROOT = Path(penstock.__file__).parent
_JANUS = [Path(janus.__file__)]


def _modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((_ROOT / folder).rglob("*.py"))]


_SYNC = [*_modules("sync"), _ROOT / "_util" / "loop_thread.py"]
_HEART = [_ROOT / "sync" / f"{name}.py" for name in ("buffer", "slots")]
_SHARED = [*_modules("queue", "workers"), _ROOT / "_util" / "wait_queue.py"]
_RULES = _modules("policies", "limits")
#: From which a schedule draws the modules that it disturbs.
GROUPS = [
    _HEART,
    _HEART,
    _SYNC,
    [*_SYNC, *_SHARED],
    [*_SYNC, *_SHARED, *_RULES],
    [*_SYNC, *_JANUS],
]

#: Ways to disturb: none at all; by the interpreter's own interval; by yields anywhere; by delays
#: at a few lines.
WAYS = ("none", "switch", "yields", "hot")

Trace = Callable[[FrameType, str, Any], Any]


def functions_of(path: Path) -> list[list[tuple[str, int]]]:
    """The lines at which something happens, of each function of a module."""
    module = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    found = []
    rest = [const for const in module.co_consts if isinstance(const, CodeType)]
    while rest:
        code = rest.pop()
        rest += [const for const in code.co_consts if isinstance(const, CodeType)]
        lines = {line for _, _, line in code.co_lines() if line is not None}
        found.append([(str(path), line) for line in sorted(lines)])
    return found


@dataclass
class Disturbance:
    """What one schedule does to its threads, drawn from its seed."""

    way: str
    interval: float
    #: The modules in which threads yield, and how likely they do before a line.
    files: frozenset[str] = frozenset()
    share: float = 0.0
    #: The lines at which threads wait, and for how many seconds at most.
    hot: frozenset[tuple[str, int]] = frozenset()
    longest: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random, way: str | None = None) -> Disturbance:
        """One of a kind; ``way``: of that kind."""
        if way is None:
            way = rng.choices(WAYS[1:], (1, 3, 4))[0]
        interval = 0.005 if way == "none" else 10 ** rng.uniform(-6, -3)
        files = rng.choice(GROUPS)
        if way == "yields":
            names = frozenset(map(str, files))
            return cls(way, interval, names, share=10 ** rng.uniform(-3, -1.3))
        if way == "hot":
            # Not everywhere: where all wait, none meet.
            functions = sorted(lines for path in files for lines in functions_of(path))
            if rng.random() < 0.5:
                some = rng.sample(functions, min(len(functions), rng.choice((2, 6))))
                hot = frozenset(line for lines in some for line in lines)
            else:
                lines = sorted({line for function in functions for line in function})
                hot = frozenset(rng.sample(lines, rng.choice((3, 10, 30))))
            names = frozenset(name for name, _ in hot)
            return cls(way, interval, names, hot=hot, longest=10 ** rng.uniform(-4, -2.5))
        return cls(way, interval)

    def __str__(self) -> str:
        what = {
            "yields": f", share {self.share:.4f} in {len(self.files)} modules",
            "hot": f", up to {self.longest * 1e3:.1f} ms at {len(self.hot)} lines",
        }.get(self.way, "")
        return f"{self.way}, interval {self.interval:.1e} s{what}"

    @contextmanager
    def on(self) -> Iterator[None]:
        """Disturb every thread that is started within the block."""
        interval, trace = sys.getswitchinterval(), threading.gettrace()
        sys.setswitchinterval(self.interval)
        if self.files:
            threading.settrace(self._trace())
        try:
            yield
        finally:
            threading.settrace(trace)  # type: ignore[arg-type] # None is what it was before
            sys.setswitchinterval(interval)

    def _trace(self) -> Trace:
        files, hot, share, longest = self.files, self.hot, self.share, self.longest
        random_one = random.random  # whether a thread yields, no seed could fix

        def yields(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "line" and random_one() < share:
                time.sleep(0 if random_one() < 0.7 else 0.0003)
            return yields

        def waits(frame: FrameType, event: str, arg: Any) -> Any:
            if (
                event == "line"
                and (frame.f_code.co_filename, frame.f_lineno) in hot
                and random_one() < 0.1
            ):
                time.sleep(random_one() * longest)
            return waits

        local: Trace = waits if hot else yields
        hot_codes: dict[CodeType, bool] = {}

        def is_hot(code: CodeType) -> bool:
            name = code.co_filename
            return name in files and (
                not hot or any((name, line) in hot for _, _, line in code.co_lines() if line)
            )

        def enters(frame: FrameType, event: str, arg: Any) -> Any:
            code = frame.f_code
            known = hot_codes.get(code)
            if known is None:
                known = hot_codes[code] = is_hot(code)
            return local if known else None

        return enters
