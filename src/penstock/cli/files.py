"""The files of a run: opened so that nothing is lost by mistake."""

from __future__ import annotations

import io
import os
import sys

STANDARD = "-"


def open_requests(name: str) -> io.BufferedReader:
    """Open the request file; ``-`` is standard input.

    Raises:
        OSError: it cannot be read.
    """
    if name != STANDARD:
        return open(name, "rb")
    if sys.stdin is None:
        raise OSError("standard input is closed")
    # Not sys.stdin.buffer: Python closes that one when it ends, and would wait for the reader.
    return open(sys.stdin.fileno(), "rb", closefd=False)


def private(name: str, flags: int) -> int:
    """Open a file, one that nobody else can read if it is new: answers may be secret."""
    return os.open(name, flags, 0o600)
