"""The ``penstock`` command, behind the extra ``cli``.

This module needs nothing of the extra, so that it can say what is missing.
"""

from __future__ import annotations

import sys

#: What the extra brings. (typer needs click in some of its versions.)
_FROM_THE_EXTRA = frozenset({"aiohttp", "click", "filelock", "rich", "typer", "yarl"})


def main() -> None:
    """Run the command, and exit with its code."""
    try:
        raise SystemExit(_run())
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _run() -> int:
    try:
        from penstock.cli.app import run_command
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _FROM_THE_EXTRA:
            raise
        sys.stderr.write(
            f"penstock: the command needs the package {missing}: pip install 'penstock[cli]'\n"
        )
        return 2
    return run_command()
