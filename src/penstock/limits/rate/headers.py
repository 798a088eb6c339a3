"""What a service says about its limits in the headers of a response.

These kinds of fields are read, in any case and under any prefix of a vendor's:

- Orders: ``x-should-retry: false``, ``Stripe-Should-Retry``. They decide over the status.
- Waits: ``Retry-After``, in seconds or an HTTP date (RFC 9110, section 10.2.3);
  ``retry-after-ms``, ``x-ms-retry-after-ms`` and ``x-amz-retry-after`` in milliseconds, which count
  before ``Retry-After``. A wait counts with failures only: with a redirect or a 202 it is about
  something else. ``grpc-retry-pushback-ms`` in the trailing metadata of gRPC.
- Figures by name: ``X-RateLimit-Limit``, ``-Remaining``, ``-Reset``; with the name of the limit
  before or after (``x-ratelimit-remaining-tokens``, ``anthropic-ratelimit-tokens-remaining``); with
  the window in the name (``x-ratelimit-remaining-req-minute``) or beside it
  (``ratelimit-limit: 100;w=21600``, ``X-HubSpot-RateLimit-Interval-Milliseconds``).
- A reset is in seconds from now, or in seconds or milliseconds since 1970, told apart by size; or a
  date (HTTP, RFC 3339), or a duration: ``6m0s``, ``PT1M30S``, ``00:00:05``.
- ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers, all versions).
- Use and limit in one value: ``X-Shopify-Shop-Api-Call-Limit: 40/40``.
- The status of a plan: ``anthropic-ratelimit-unified-5h-status: rejected``.
- Reasons: ``Stripe-Rate-Limited-Reason: global-concurrency``, ``RateLimit-Reason``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from penstock.limits.rate import header_names, header_policies
from penstock.limits.rate.feedback import Dimension, Feedback
from penstock.limits.rate.header_values import LONGEST_WAIT, duration, number, wait, when

__all__ = ["LONGEST_WAIT", "Dimension", "Feedback", "parse"]

#: A field with more characters is not read.
_LONGEST_NAME, _LONGEST_VALUE = 200, 1_000
#: Seconds in which a full bucket of calls becomes empty, where a service says how full it is and
#: not how quickly it empties: so it is with each of Shopify's plans (40 calls at 2 a second, 400
#: at 20).
_BUCKET_EMPTIES_IN = 20.0
#: The status of a plan that is used up.
_REJECTED = {"rejected", "exceeded", "exhausted"}
_TOO_MANY_REQUESTS = 429


def parse(headers: Any, now_wall: float, status: int | None = None) -> Feedback:
    """Read ``headers``: a mapping, or pairs, of str or bytes.

    ``now_wall``: seconds since 1970, to compare dates with. A date that has just passed means
    "now". ``status``: the HTTP status of the response; with one below 400, times to wait do not
    count. Values that make no sense (not a number, negative, NaN, more than 31 days away) are
    ignored and counted. Never raises.
    """
    reader = _Reader(now_wall, status if isinstance(status, int) else None)
    try:
        for name, value in _pairs(headers):
            reader.read(name, value)
    except Exception:  # noqa: BLE001 - whatever this is, it is not headers
        return Feedback(ignored=1)
    return reader.feedback()


def _pairs(headers: Any) -> Iterable[tuple[str, str]]:
    """The fields that may be about limits."""
    if headers is None:
        return
    multi: Any = getattr(headers, "multi_items", None)  # httpx: all of those that were sent twice
    items: Any = multi if callable(multi) else getattr(headers, "items", None)
    pairs: Any = items() if callable(items) else headers
    for name, value in pairs:
        lower = _text(name).strip().lower()
        if ("limit" not in lower and "retry" not in lower) or len(lower) > _LONGEST_NAME:
            continue
        values = value if isinstance(value, (list, tuple)) else (value,)
        for one in values:
            yield lower, _text(one).strip()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)


_ABOUT_THE_CALL = {"wait", "wait-ms", "pushback", "should-retry", "reason"}
_ORDERS = {"true": True, "false": False}
_USED_OF_LIMIT = re.compile(r"(\d{1,12}) ?/ ?(\d{1,12})\Z", re.ASCII)


@dataclass
class _Reader:
    now: float
    status: int | None
    #: The longest wait in seconds or as a date, and in milliseconds.
    retry_after: float | None = None
    retry_after_ms: float | None = None
    should_retry: bool | None = None
    reason: str = ""
    #: By name and partition.
    dimensions: dict[tuple[str, str | None], dict[str, Any]] = field(default_factory=dict)
    policies: list[header_policies.PolicyItem] = field(default_factory=list)
    #: Names of limits whose reset is "in so many seconds": that is a wait, if nothing else is said.
    from_now: set[str] = field(default_factory=set)
    #: Names of limits whose status is known: whether they are used up.
    rejected: dict[str, bool] = field(default_factory=dict)
    ignored: int = 0

    def read(self, name: str, value: str) -> None:
        """Read a field. What makes no sense in it is ignored, and counted."""
        known = header_names.read(name)
        if known is None:
            return
        try:
            if len(value) > _LONGEST_VALUE:
                raise ValueError(name)
            if known.figure in _ABOUT_THE_CALL:
                self._read_order(known, value)
            else:
                self._read_limit(known, value)
        except (ValueError, OverflowError, TypeError):
            self.ignored += 1

    # -- what is to become of the call ----------------------------------------------------------

    def _read_order(self, known: header_names.Field, value: str) -> None:
        if known.figure == "wait":
            seconds = when(value, self.now, epoch=not known.is_from_now)
            self.retry_after = max(seconds, self.retry_after or 0.0)
        elif known.figure == "wait-ms":
            self._wait_ms(value)
        elif known.figure == "pushback":
            self._read_pushback(value)
        elif known.figure == "reason":
            self.reason = value
        elif value.lower() in _ORDERS:
            self.should_retry = _ORDERS[value.lower()]
        else:
            raise ValueError(value)

    def _wait_ms(self, value: str) -> None:
        seconds = wait(number(value) / 1000)
        self.retry_after_ms = max(seconds, self.retry_after_ms or 0.0)

    def _read_pushback(self, value: str) -> None:
        """A wait of gRPC's: what is below zero, or no number, is an order not to try again."""
        try:
            self._wait_ms(value)
        except ValueError:
            self.should_retry = False
            if not re.fullmatch(r"-\d{1,18}", value, re.ASCII):
                raise

    # -- limits ---------------------------------------------------------------------------------

    def _read_limit(self, known: header_names.Field, value: str) -> None:
        if "/" in value and (match := _USED_OF_LIMIT.match(value)):
            self._read_used(known.dimension, int(match[1]), int(match[2]))
        elif known.figure in {"states", "policies"}:
            self._read_policies(value, is_policy=known.figure == "policies")
        elif known.figure == "status":
            self._note_window(known)
            self.rejected[known.dimension] = value.lower() in _REJECTED
        elif known.figure != "bucket":  # or it may be a limit of anything
            self._note_window(known)
            self._read_figure(known, value)

    def _read_figure(self, known: header_names.Field, value: str) -> None:
        if known.figure == "reset":
            first, epoch = value.partition(";")[0].strip(), not known.is_from_now
            figure = when(first, self.now, epoch=epoch, scale=known.scale)
            if known.is_from_now:
                self.from_now.add(known.dimension)
        else:
            # "10, 10;w=1, 1000;w=3600": the first figure counts, and the policies follow.
            first, *parameters = value.partition(",")[0].split(";")
            seconds = duration(first.strip()) if known.figure == "window" else None
            figure = number(first.strip()) * known.scale if seconds is None else seconds
            for parameter in parameters:
                key, _, window = parameter.partition("=")
                if key.strip().lower() == "w":
                    self._note(known.dimension, "window", number(window.strip()))
        self._note(known.dimension, known.figure, figure)

    def _read_used(self, dimension: str, used: int, limit: int) -> None:
        if not limit:
            raise ValueError(limit)
        self._note(dimension, "limit", limit)
        self._note(dimension, "remaining", max(0, limit - used))
        one_more = max(0, used - limit + 1) * _BUCKET_EMPTIES_IN / limit
        self._note(dimension, "reset", min(one_more, LONGEST_WAIT))

    def _read_policies(self, value: str, *, is_policy: bool) -> None:
        items = list(header_policies.items(value))
        for item in items:
            if is_policy and item.figures:
                self.policies.append(item)
            elif item.figures:
                for what, figure in item.figures.items():
                    self._note(item.name, what, figure, item.partition)
                if item.unit:
                    self.dimensions[item.name, item.partition]["unit"] = item.unit
        if not all(item.is_good for item in items):
            raise ValueError(value)

    def _note_window(self, known: header_names.Field) -> None:
        if known.window is not None:
            self._note(known.dimension, "window", known.window)

    def _note(self, name: str, what: str, figure: float, partition: str | None = None) -> None:
        if not 0 <= figure < math.inf:
            raise ValueError(figure)
        said = self.dimensions.setdefault((name, partition), {})
        # If there are two (a proxy may add one): the one that leaves less.
        pick = min if what == "remaining" else max
        said[what] = pick(figure, said[what]) if what in said else figure

    # -- all of it ------------------------------------------------------------------------------

    def feedback(self) -> Feedback:
        """What all of it says."""
        for name, is_rejected in self.rejected.items():
            if is_rejected and not self._has_better_status(name):
                self._note(name, "remaining", 0.0)
        self._apply_policies()
        dimensions = tuple(
            Dimension(name, partition=partition, **said)
            for (name, partition), said in self.dimensions.items()
        )
        reason = self.reason or self._reason(dimensions)
        wait = self._wait(dimensions)
        return Feedback(wait, dimensions, self.ignored, self.should_retry, reason)

    def _reason(self, dimensions: tuple[Dimension, ...]) -> str:
        """Why a call was refused, where nothing remains of one kind of limit only."""
        exhausted = [each for each in dimensions if each.is_exhausted]
        is_clear = bool(exhausted) and all(each.is_concurrency for each in exhausted)
        if self.status != _TOO_MANY_REQUESTS or not is_clear:
            return ""
        return exhausted[0].unit or exhausted[0].name

    def _has_better_status(self, name: str) -> bool:
        """Whether the status of a whole plan decides, and not that of this part of it.

        A part that is rejected may be one that is not used, such as credit beyond the plan.
        """
        return any(
            name.startswith(f"{whole}-")
            and not (is_rejected and "reset" not in self.dimensions.get((whole, None), {}))
            for whole, is_rejected in self.rejected.items()
        )

    def _apply_policies(self) -> None:
        """Add what policies say of limits: it is true of each partition."""
        for policy in self.policies:
            if not any(policy.name == name for name, _ in self.dimensions):
                self.dimensions[policy.name, None] = {}
        for (name, _), said in self.dimensions.items():
            policies = [policy for policy in self.policies if policy.name == name]
            # Up to version 07 they have no names: the limit tells which one it is.
            same = [one for one in policies if one.figures.get("limit") == said.get("limit")]
            for policy in (same or policies)[:1]:
                said.update({"unit": policy.unit, **policy.figures, **said})

    def _wait(self, dimensions: tuple[Dimension, ...]) -> float | None:
        """The time to wait that the service named."""
        if self.status is not None and self.status < 400:
            return None
        if self.retry_after_ms is not None:
            return self.retry_after_ms
        if self.retry_after is not None or any(each.is_exhausted for each in dimensions):
            return self.retry_after
        # Nothing is said of what remains: after a refusal the reset is when to come again.
        return max(
            (
                each.reset
                for each in dimensions
                if each.reset is not None
                and each.remaining is None
                and each.partition is None
                and not each.is_concurrency
                and each.name not in self.rejected
                and (
                    self.status == _TOO_MANY_REQUESTS
                    or (self.status is None and each.name in self.from_now)
                )
            ),
            default=None,
        )
