"""The requests of an input, whatever its form, one after the other."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.cli.lines import TOO_LONG, Reader
from penstock.cli.problems import MalformedLineError, RequestId
from penstock.cli.records import CsvCutter, Cutter, JsonCutter, read_object, row_reader
from penstock.cli.run.ids import fingerprint
from penstock.cli.run.requests import Request, RequestMaker
from penstock.cli.run.template import Template


@dataclass(frozen=True)
class InputFormat:
    """What the input is written in."""

    base: str | None = None
    template: Template | None = None
    #: The columns of a CSV file, whose rows begin at ``first_line``; None for lines of JSON.
    columns: list[str] | None = None
    first_line: int = 1
    #: Where the files of the input's requests are.
    folder: Path | None = None

    def cutter(self, on_blank: Callable[[], None]) -> Cutter:
        """What finds the records."""
        if self.columns is None:
            return JsonCutter(on_blank)
        return CsvCutter(on_blank, self.first_line)

    def reader(self) -> Callable[[bytes], dict[str, Any]]:
        """What reads a record as the fields of a request."""
        read = read_object if self.columns is None else row_reader(self.columns)
        template = self.template
        return read if template is None else lambda record: template.fill(read(record))


@dataclass(frozen=True)
class Malformed:
    """A record that is no request. ``id`` is the one that it gives, or made of its text."""

    line: int
    id: RequestId
    problem: str


class RequestSource:
    """Reads requests from a file as they are asked for."""

    def __init__(
        self, file: io.BufferedReader, form: InputFormat, on_blank: Callable[[], None] = lambda: None
    ) -> None:
        self._form = form
        self._read = form.reader()
        self._maker = RequestMaker(form.base, form.folder)
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
                yield self._made(number, record)
        for number, record in self._cutter.end():
            yield self._made(number, record)

    def _made(self, number: int, record: bytes | None) -> Request | Malformed:
        try:
            if record is None:
                raise MalformedLineError(TOO_LONG)
            return self._maker.make(number, self._read(record))
        except MalformedLineError as error:
            given_id = error.id
            if given_id is None:
                given_id = fingerprint((record or b"").decode("utf-8", "backslashreplace"))
            return Malformed(number, given_id, str(error))
