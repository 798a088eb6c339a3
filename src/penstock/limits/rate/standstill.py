"""What the log says of gates that hold everything up for long."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable

from penstock._util import checks
from penstock.limits.rate.gate import Gate

_logger = logging.getLogger("penstock")

#: Seconds for which all calls stand still before the log says so.
_LONG = 5.0
#: Of so many gates it is remembered at most that the log says so.
_MOST = 1000


class Standstills:
    """Warns once when a gate is closed for long, and says when calls start again.

    A handler of the log may be anybody's code. So what is to be said is noted with the lock of the
    limiter, and written without it.

    Args:
        whose: whose calls they are, as the log says it.
    """

    def __init__(self, whose: str) -> None:
        self.whose = whose
        self._news: deque[tuple[Hashable, float, int, str]] = deque()
        #: The gates of which the log says that they are closed.
        self._told: dict[Hashable, Gate] = {}

    def forget(self) -> None:
        """Forget what was noted: this is a forked child."""
        self._news.clear()
        self._told.clear()

    def __bool__(self) -> bool:
        return bool(self._told)

    def note(self, gate: Gate, key: Hashable, waiting: int, why: str) -> None:
        """A gate was closed. ``waiting``: how many calls wait for it. With the lock."""
        seconds = gate.stands_still_for
        if seconds > _LONG and key not in self._told:
            self._told[key] = gate
            if len(self._told) > _MOST:  # nobody has called with the oldest keys since
                self._told.pop(next(iter(self._told)))
            self._news.append((key, seconds, waiting, why))

    def tell(self) -> None:
        """Write what was noted, and which calls start again. Without the lock."""
        while self._news:
            try:
                key, seconds, waiting, why = self._news.popleft()
            except IndexError:  # another thread writes it
                break
            _logger.warning(
                "No call %s starts for %.1f s: %s; calls that wait: %d",
                self._of(key),
                seconds,
                why,
                waiting,
            )
        for key, gate in list(self._told.items()):
            if not gate.stands_still_for and self._told.pop(key, None) is not None:
                _logger.info("Calls %s start again, after %.1f s", self._of(key), gate.stood_for)

    def _of(self, key: Hashable) -> str:
        return self.whose if key is None else f"{self.whose} with the key {checks.shown(key)}"
