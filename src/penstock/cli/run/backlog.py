"""Which requests of the input are to be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn

from penstock.cli.display import Display
from penstock.cli.problems import RequestId, quote
from penstock.cli.run.changes import Changes
from penstock.cli.run.ids import SeenIds, fingerprint, key
from penstock.cli.run.job import FILE_TROUBLE, WRONG_INPUT, RunError, RunJob
from penstock.cli.run.journal import MALFORMED, malformed_key
from penstock.cli.run.look_ahead import MOST, explain
from penstock.cli.run.recorder import Recorder
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestFailure, RequestResult, Totals
from penstock.cli.run.source import Malformed, RequestSource


class Backlog:
    """Reads the input, and leaves out what is done, asked for twice, or no request."""

    def __init__(self, job: RunJob, totals: Totals, display: Display, recorder: Recorder) -> None:
        self._job = job
        self._earlier = job.results.earlier
        self._retry_failed = job.retry_failed
        self._send_changed = job.send_changed
        self._changes = Changes(self._earlier)
        self._totals = totals
        self._display = display
        self._recorder = recorder
        self._source = RequestSource(job.requests, job.form, self._count_blank)
        self._seen = SeenIds()
        #: Why the input could not be read to its end.
        self.trouble: RunError | None = None

    async def __aiter__(self) -> AsyncIterator[Request]:
        """Yield the requests that are to be sent.

        Raises:
            RunError: a result cannot be written.
        """
        async for made in self._checked():
            if isinstance(made, Malformed):
                await self._refuse(made.line, made.id, made.problem)
                continue
            which = key(made.id)
            before = self._seen.earlier(made.line, which, made.asks_for)
            if before is not None:
                await self._note_twin(made, *before)
            elif self._earlier.is_changed(which, made.asked) and self._sends_changed(which, made):
                yield made
            elif which in self._earlier.succeeded:
                self._totals.skipped += 1
            elif which in self._earlier.failed and not self._retry_failed:
                await self._recorder.failed_earlier(self._earlier.failed[which])
            else:
                yield made

    def _sends_changed(self, which: int, request: Request) -> bool:
        """Whether a request is sent under an id that has an answer to something else."""
        if self._send_changed is False:
            self._totals.kept += 1
            return False
        self._totals.changed += 1
        self._changes.note(which, request.asked)
        if self._send_changed is None and self._changes.are_many:
            raise RunError(self._changes.question, WRONG_INPUT)
        return True

    async def close(self) -> None:
        """Close the input."""
        await self._source.close()

    async def _checked(self) -> AsyncIterator[Request | Malformed]:
        """Hold back what is no request until there is one, or it is known that there is none."""
        held: list[Malformed] = []
        is_right = False
        async for made in self._made():
            if not is_right and isinstance(made, Malformed):
                held.append(made)
                if len(held) == MOST:
                    self._refuse_all(held)
                continue
            is_right = True
            for each in held:
                yield each
            held.clear()
            yield made
        if held and self.trouble is None:
            self._refuse_all(held)

    def _refuse_all(self, held: list[Malformed]) -> NoReturn:
        job = self._job
        problem = explain(job.name, job.requests.head, len(held), held[0])
        raise RunError(problem, WRONG_INPUT)

    async def _made(self) -> AsyncIterator[Request | Malformed]:
        try:
            async for made in self._source:
                yield made
        except OSError as error:  # what has been read is sent all the same
            problem = f"cannot read the requests to their end: {error.strerror or error}"
            self.trouble = RunError(problem, FILE_TROUBLE)

    async def _note_twin(self, request: Request, line: int, is_same: bool) -> None:
        if is_same:
            self._totals.duplicates += 1
            self._display.note(
                f"line {request.line}: is the same request as line {line}, and is sent once"
            )
        else:
            problem = f"line {line} has the same id {quote(str(request.id))}, for another request"
            # Not under that id, which is another's.
            await self._refuse(request.line, fingerprint(request.id, request.asks_for), problem)

    async def _refuse(self, line: int, request_id: RequestId, problem: str) -> None:
        known = self._earlier.malformed.get(malformed_key(request_id, problem))
        if known is not None:
            await self._recorder.failed_earlier(known)
            return
        self._display.note(f"line {line}: {problem}")
        failure = RequestFailure(MALFORMED, problem)
        await self._recorder.record(RequestResult(id=request_id, line=line, failure=failure))

    def _count_blank(self) -> None:
        self._totals.blank += 1
