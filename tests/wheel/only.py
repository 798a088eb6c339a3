"""Runs a program with what one extra brings, and nothing else that is installed.

``python only.py EXTRA PROGRAM``, in an environment that has the wheel with all its extras.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import distribution, packages_distributions
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """The distributions that one needs, with these extras."""
    for extra in ("", *extras):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        yield name
        for text in distribution(name).requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                yield from closure(canonicalize_name(wanted.name), frozenset(wanted.extras), seen)


class Nothing:
    """Finds no module of other distributions."""

    def __init__(self, allowed: set[str]) -> None:
        self._hidden = {
            module
            for module, owners in packages_distributions().items()
            if allowed.isdisjoint(map(canonicalize_name, owners))
        }

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._hidden:
            raise ModuleNotFoundError(f"{name} does not come with the extra", name=name)
        return None


extra, program = sys.argv[1:]
sys.meta_path.insert(0, Nothing(set(closure("penstock", frozenset({extra}), set()))))
for module in [name for name in sys.modules if name.partition(".")[0] == "packaging"]:
    del sys.modules[module]
exec(program, {"__name__": "__main__"})
