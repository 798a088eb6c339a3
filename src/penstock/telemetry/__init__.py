"""Traces and metrics: :class:`Telemetry` for a queue, :func:`setup` for a whole program."""

from penstock.telemetry.api import Telemetry
from penstock.telemetry.bootstrap import setup

__all__ = ["Telemetry", "setup"]
