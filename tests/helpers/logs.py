"""Loggers."""

from __future__ import annotations

import logging

#: Says nothing: for tests in which so much goes wrong that the log would be long.
SILENT = logging.getLogger("tests.silent")
SILENT.setLevel(logging.CRITICAL + 1)
