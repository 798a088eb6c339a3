"""Leases: who takes an item has it until a time, and says in time that it is still at work.

A worker that dies says nothing more. When its lease ends, the item is handed out again.
"""

from __future__ import annotations

import secrets

from penstock.brokers.sql.rows import ItemLease


def new_lease(number: int) -> ItemLease:
    """A lease of an item, which no other one is taken for."""
    return ItemLease(number, secrets.randbits(62))
