"""The nats-server that clusters need, built from source with Go: ``make nats-server``."""

from __future__ import annotations

import os
from pathlib import Path

from golang import CACHE, MissingError, installed, say

#: What clusters are tested with.
PACKAGE, VERSION = "github.com/nats-io/nats-server/v2", "v2.15.2"

BUILT = CACHE / "nats" / f"nats-server-{VERSION}"


def built() -> Path:
    """``PENSTOCK_NATS_SERVER``, or what ``make nats-server`` built; it builds nothing."""
    named = os.environ.get("PENSTOCK_NATS_SERVER")
    if named:
        path = Path(named)
        if not os.access(path, os.X_OK):
            raise MissingError(f"PENSTOCK_NATS_SERVER names no program: {named}")
        return path
    if not BUILT.exists():
        raise MissingError(f"nats-server {VERSION} is not built: make nats-server")
    return BUILT


def main() -> None:
    """Build it if it is not there yet."""
    try:
        say(f"{installed(PACKAGE, VERSION, BUILT, 'a minute or two')} is there")
    except MissingError as missing:
        raise SystemExit(f"nats-server cannot be built: {missing}") from None


if __name__ == "__main__":
    main()
