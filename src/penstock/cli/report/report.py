"""The report of a run: one page with pictures, which needs nothing but itself.

The page has no script, and its policy allows none; nothing is loaded from anywhere. So it can be
opened anywhere and kept, and what it quotes of requests and answers can do no harm.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from penstock.cli.files import STANDARD
from penstock.cli.report.page import MARK, RunInfo, page
from penstock.cli.run.history import History
from penstock.cli.run.results import Totals
from penstock.errors import PenstockError

__all__ = ["ReportError", "RunInfo", "check_report", "write_report"]


class ReportError(PenstockError):
    """There can be no report; the message says why."""


def check_report(name: str, *others: str) -> None:
    """See that a report can be written to the file ``name``; to be asked before a run.

    What is there already is replaced if it is a report, and else left alone. ``others``: files
    that it must not be.

    Raises:
        ReportError: it cannot, or what draws it is not installed.
    """
    if name == STANDARD:
        raise ReportError("must be the name of a file, and not standard output")
    path = Path(name)
    if any(os.path.realpath(name) == os.path.realpath(other) for other in others):
        raise ReportError(f"{name} is another file of the run: give another name")
    try:
        folder = path.resolve().parent
        if not folder.is_dir():
            raise ReportError(f"cannot write {name}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise ReportError(f"cannot write {name}: the folder {folder} is not writable")
        if path.exists() and not _is_report(path):
            raise ReportError(f"{name} exists already and is not a report: give another name")
        import matplotlib as mpl  # noqa: F401 - is it there
    except ImportError as error:
        raise ReportError(
            f"needs the package {error.name or 'matplotlib'}: pip install 'penstock[report]'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise ReportError(f"cannot write {name}: {_told(error)}") from None


def write_report(
    name: str,
    subject: RunInfo,
    totals: Totals,
    history: History,
    elapsed: float,
    summary: Sequence[tuple[str, str]],
) -> None:
    """Draw what happened and write it to the file ``name``: all of it, or nothing.

    Args:
        name: the file, which is replaced in one go.
        subject: what was run.
        totals, history: what came of it, and when.
        elapsed: seconds that it took.
        summary: what it came to, as names and words.

    Raises:
        ReportError: it could not be drawn or written. What was there before still is.
    """
    try:
        text = page(subject, totals, history, elapsed, summary)
        # Half a character (a lone surrogate) has no UTF-8 form.
        _replace(Path(name).resolve(), text.encode("utf-8", "backslashreplace"))
    except Exception as error:  # the results are there, and shall not be held up by a picture
        raise ReportError(f"cannot write the report {name}: {_told(error)}") from error


def _replace(path: Path, data: bytes) -> None:
    # By a name that nobody can know before, so that nobody has put a link there.
    number, name = tempfile.mkstemp(".tmp", f".{path.name[:100]}.", path.parent)
    beside = Path(name)
    try:
        with open(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink()


def _is_report(path: Path) -> bool:
    if not stat.S_ISREG(path.stat().st_mode):
        return False
    with open(path, "rb") as file:
        return MARK.encode() in file.read(200)


def _told(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error) or type(error).__name__
