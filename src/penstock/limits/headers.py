"""The former place of :mod:`penstock.limits.rate.headers`."""

from __future__ import annotations

from penstock.limits.rate.headers import LONGEST_WAIT, Dimension, Feedback, parse

__all__ = ["LONGEST_WAIT", "Dimension", "Feedback", "parse"]
