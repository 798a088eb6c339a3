"""Where results go: into the counts, the history, the journal and the file of failures."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from functools import partial
from pathlib import Path

from penstock.cli.files import private
from penstock.cli.io_thread import IoThread
from penstock.cli.lines import LineWriter
from penstock.cli.run.history import History
from penstock.cli.run.ids import key
from penstock.cli.run.job import FILE_TROUBLE, RunError, RunJob
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestResult, Totals


class Recorder:
    """Counts and writes results. To be made in the event loop of the run."""

    def __init__(self, job: RunJob, totals: Totals, history: History) -> None:
        self._job = job
        self._totals = totals
        self._history = history
        self._results = LineWriter(job.results.file, job.results.is_journal)
        self._bodies = IoThread("penstock-bodies")
        self._failures = None if job.failures is None else LineWriter(job.failures)

    async def record(self, result: RequestResult, request: Request | None = None) -> None:
        """A line is dealt with; ``request`` is what it asked for, if it was a request.

        Raises:
            RunError: it cannot be written.
        """
        folder = self._job.save_bodies
        if folder is not None and result.binary is not None:
            try:
                result.body_file = await self._bodies.call(partial(save_body, folder, result))
            except OSError as error:
                problem = f"cannot write to --save-bodies: {error.strerror or error}"
                raise RunError(problem, FILE_TROUBLE) from None
        self._totals.add(result)
        self._history.finished(self._totals.elapsed, result, request)
        line = result.to_line()
        # Counted and handed over in one go: if this is cancelled, it is both, and will be written.
        written = [self._results.write(line)]
        if self._failures is not None and result.failure is not None:
            written.append(self._failures.write(line))
        await _confirmed(*written)

    async def failed_earlier(self, place: int) -> None:
        """A line failed in an earlier run; ``place`` is where the journal says so.

        Raises:
            RunError: it cannot be written to the file of failures.
        """
        self._totals.failed_earlier += 1
        if self._failures is not None:
            await _confirmed(self._failures.write(self._job.results.line_at(place)))

    async def close(self) -> None:
        """Close the files when all is written, or cannot be.

        Raises:
            OSError: what was written may not be on the disk.
        """
        try:
            await self._results.close()
        finally:
            self._bodies.end()
            if self._failures is not None:
                await self._failures.close()


async def _confirmed(*written: asyncio.Future[None]) -> None:
    try:
        for future in written:
            await future
    except OSError as error:
        problem = f"cannot write the results: {error.strerror or error}"
        raise RunError(problem, FILE_TROUBLE) from None


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
#: Characters of an id that are kept in the name of a file.
_LONGEST_NAME = 80


def save_body(folder: Path, result: RequestResult) -> str:
    """Write the bytes of a body to a file in ``folder``; return its name, with the folder's.

    The file is called after the id, and there is one for each id, however alike two are.

    Raises:
        OSError: it cannot be written.
    """
    text = str(result.id)
    name = _UNSAFE.sub("_", text)[:_LONGEST_NAME].strip(".")
    if name != text:
        name = f"{name}-{key(result.id):032x}"[: _LONGEST_NAME + 13]
    path = folder / (name + (mimetypes.guess_extension(result.media_type) or ".bin"))
    # It is there whole or not at all.
    part = path.with_name(path.name + ".part")
    with open(part, "wb", opener=private) as file:
        file.write(result.binary or b"")
    os.replace(part, path)
    return str(path)
