"""What goes along with an item."""

from __future__ import annotations

from penstock import Policy, RetryPolicy
from penstock.policies.item_state import PolicyScope
from penstock.policies.observer import NoObserver
from penstock.policies.outage import ItemFailures
from penstock.workers.item import Ticket


def test_the_next_worker_knows_how_an_item_has_failed_and_is_told_nothing_by_the_last_one() -> None:
    """Which may be stuck in a call that was a probe, and end at any time."""
    scope = PolicyScope(
        Policy(retry=RetryPolicy()), NoObserver(""), max_dead_letters=0, postpones=True
    )
    old = Ticket(scope)
    old.failures = ItemFailures()
    old.failures.throttles = 3
    new = old.transfer()
    assert old.is_revoked
    assert new.failures is not None
    assert new.failures.throttles == 3
    new.failures.throttles += 1
    assert old.failures.throttles == 3
    assert Ticket(scope).transfer().failures is None
