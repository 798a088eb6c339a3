"""What a request holds while it is under way: one of so many slots, and its attempt."""

from __future__ import annotations

import sys
from collections.abc import Callable

from penstock.policies.capacity import CapacityLimiter
from penstock.policies.open_attempt import OpenAttempt


class HeldSlot:
    """A slot that was taken, until the response is closed, by whatever end.

    It is given back once: by :meth:`end`, or when the object is collected. Either may happen in any
    thread, and wherever Python collects garbage.
    """

    __slots__ = ("_slots", "_to_end", "attempt")

    def __init__(self, slots: CapacityLimiter) -> None:
        self._slots = slots
        self._to_end = [True]
        #: The attempt that ends with it.
        self.attempt: OpenAttempt | None = None

    def end(self) -> None:
        """Give it back. Again it does nothing."""
        try:
            self._to_end.pop()
        except IndexError:
            return
        try:
            if self.attempt is not None:
                self.attempt.ended()
        finally:
            self._slots.release()

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._to_end and not is_ending():
            self.end()
