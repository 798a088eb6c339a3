"""An attempt that is not over when its call returns: the body of its response comes later."""

from __future__ import annotations

from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.rate.permit import Permit, permit_of, starts_under_way
from penstock.policies.engine import PolicyEngine
from penstock.policies.item_state import ItemAttempt, ItemState


class OpenAttempt:
    """One attempt of an item that was admitted: it fails; or responds, and ends some time later.

    Raises:
        Exception: the item may not start, ever.
    """

    __slots__ = ("_around", "_may_end", "_policy", "_start", "_state")

    def __init__(
        self, policy: PolicyEngine, state: ItemState, adaptive: AdaptiveConcurrency | None
    ) -> None:
        self._policy = policy
        self._state = state
        self._around = starts_under_way.get()
        self._start = policy._started(state, adaptive)
        # Has a member until it is over. Whoever takes that out is the one who ends it: a thread, or
        # a finaliser in the middle of that.
        self._may_end = [True]

    @property
    def permit(self) -> Permit:
        """What it took from the limits."""
        return permit_of(self._start, self._policy.limits)

    def failed(self, error: BaseException) -> None:
        """It is over: there is no response, or one that is a failure."""
        starts_under_way.set(self._around)
        if self._ends():
            self._policy._failed(self._state, self._start, error)

    def responded(self) -> None:
        """There is a response. The attempt is under way until :meth:`ended`."""
        starts_under_way.set(self._around)
        policy, call = self._policy, self._start.call
        if isinstance(call, ItemAttempt):
            policy.responded(call)
        elif not policy._has_budget:  # nothing waits for its end
            self.ended()

    def ended(self) -> None:
        """It is over, after it responded. From anywhere; again it does nothing."""
        if self._may_end and self._ends():
            self._policy._succeeded(self._state, self._start)

    def _ends(self) -> bool:
        try:
            return self._may_end.pop()
        except IndexError:
            return False
