"""Leases: who takes an item has it until a time, and says in time that it is still at work.

A worker that dies says nothing more. When its lease ends, the item is handed out again.
"""

from __future__ import annotations

import secrets

from penstock.brokers.sql.rows import Lease


def new_lease(number: int) -> Lease:
    """A lease of an item, which no other one is taken for."""
    return Lease(number, secrets.randbits(62))


def extend_every(ack_wait: float) -> float:
    """Seconds between two extensions of a lease of ``ack_wait`` seconds: two of them may fail."""
    return ack_wait / 3
