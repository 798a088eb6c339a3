"""The requests of an input, whatever it is written in, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from penstock.cli.lines import TOO_LONG, Readable, Reader
from penstock.cli.problems import MalformedLineError, RequestId
from penstock.cli.run.ids import fingerprint
from penstock.cli.run.input_format import InputFormat
from penstock.cli.run.requests import Request, RequestMaker

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Malformed:
    """A record that is no request. ``id`` is the one that it gives, or made of its text."""

    line: int
    id: RequestId
    problem: str


class RecordReader:
    """Makes requests of records."""

    def __init__(self, form: InputFormat) -> None:
        self._read = form.reader()
        self._maker = RequestMaker(form.base, form.folder)

    def made(self, number: int, record: bytes | None) -> Request | Malformed:
        """The request of a record, or what is wrong with it."""
        try:
            if record is None:
                raise MalformedLineError(TOO_LONG)
            return self._maker.make(number, self._read(number, record))
        except MalformedLineError as error:
            given_id = error.id
            if given_id is None:
                given_id = fingerprint((record or b"").decode("utf-8", "backslashreplace"))
            return Malformed(number, given_id, str(error))


def records_now(file: Readable, form: InputFormat) -> Iterator[tuple[int, bytes | None]]:
    """Find the records of what is left of a file, here and now; what is blank is left out.

    Raises:
        OSError: the file cannot be read to its end.
    """
    cutter = form.cutter(lambda: None)
    while piece := file.read1(_PIECE):
        yield from cutter.cut(piece)
    yield from cutter.end()


def read_now(file: Readable, form: InputFormat) -> Iterator[Request | Malformed]:
    """Read the requests of what is left of a file, here and now.

    Raises:
        OSError: the file cannot be read to its end.
    """
    reader = RecordReader(form)
    for number, record in records_now(file, form):
        yield reader.made(number, record)


class RequestSource:
    """Reads requests from a file as they are asked for."""

    def __init__(self, file: Readable, form: InputFormat, on_blank: Callable[[], None]) -> None:
        self._records = RecordReader(form)
        self._cutter = form.cutter(on_blank)
        self._file = Reader(file)
        self.close = self._file.close

    async def __aiter__(self) -> AsyncIterator[Request | Malformed]:
        """Yield the requests, and what is none.

        Raises:
            OSError: the file cannot be read to its end.
        """
        async for piece in self._file:
            for number, record in self._cutter.cut(piece):
                yield self._records.made(number, record)
        for number, record in self._cutter.end():
            yield self._records.made(number, record)
