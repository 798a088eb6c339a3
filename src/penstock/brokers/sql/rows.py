"""What goes into the tables of a queue, and what comes out."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be stored."""

    data: bytes
    #: What goes with it: the type of ``data``, the deadline, the trace.
    headers: dict[str, str] = field(default_factory=dict)
    #: The lower it is, the sooner the item is handed out; within one rank in the order of the puts.
    rank: float = 0
    #: Of two items with one id, put within the time that ids are known, one is stored.
    id: str | None = None


class ItemLease(NamedTuple):
    """The right to settle an item that was handed out, until the lease ends.

    A worker that is at work says so in time, and the lease ends later. One that dies says nothing
    more; when its lease ends, the item is handed out again.
    """

    #: The item. Numbers grow with the puts to a queue, and none is used twice.
    number: int
    #: Each handing-out has another one.
    token: int


def new_lease(number: int) -> ItemLease:
    """A lease of an item, which no other one is taken for."""
    return ItemLease(number, secrets.randbits(62))


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item that was handed out."""

    lease: ItemLease
    data: bytes
    headers: dict[str, str]
    #: How many times it has been handed out, this time included.
    deliveries: int
    #: Seconds since it was put, by the clock of the database.
    age: float


class Kept(Enum):
    """What became of an item that should become a dead letter."""

    #: It is one, or it is dropped where none are kept.
    YES = "yes"
    #: There are as many as may be; the item stays in the queue.
    FULL = "full"
    #: The lease had ended, and the item is somebody else's now, or done.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class DeadRow:
    """An item that failed for good."""

    #: They are numbered in the order of their deaths.
    number: int
    data: bytes
    headers: dict[str, str]
    deliveries: int
    error_type: str
    error: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items of which kind a queue has, at one instant."""

    maxsize: int
    #: Whether nothing is handed out to anybody.
    is_paused: bool
    #: Accepted and not done.
    size: int
    #: In the hands of workers.
    in_flight: int
    #: Waiting for another attempt.
    delayed: int
    #: Handed out more than once so far.
    redelivered: int
    dead_letters: int
    #: Bytes of the items, without their headers.
    bytes: int
