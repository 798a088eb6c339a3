"""Traces and metrics: :class:`Telemetry` for a queue, :func:`setup` for a whole program."""

from penstock.telemetry.handle import TelemetryHandle
from penstock.telemetry.sdk import setup
from penstock.telemetry.telemetry import Telemetry

__all__ = ["Telemetry", "TelemetryHandle", "setup"]
