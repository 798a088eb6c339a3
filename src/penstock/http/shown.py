"""What everything that sends requests under a policy shows of it."""

from __future__ import annotations

from typing import Generic, TypeVar

from penstock.http.sender import RequestSender
from penstock.limits import Limiter
from penstock.policies.policy import Policy, PolicyStatistics

SenderT = TypeVar("SenderT", bound=RequestSender)


class PolicyShown(Generic[SenderT]):
    """For what has a sender."""

    _sender: SenderT

    @property
    def policy(self) -> Policy:
        """The policy that every request is sent under."""
        return self._sender.policy

    @property
    def limits(self) -> Limiter:
        """What every request asks before it is sent, to be shared, or told more."""
        return self.policy.limits

    def statistics(self) -> PolicyStatistics:
        """What was done so far. From any thread."""
        return self._sender.statistics()

    def __repr__(self) -> str:
        return repr(self._sender)
