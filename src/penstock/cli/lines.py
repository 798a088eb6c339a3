"""Lines in and lines out, of files that may be pipes.

Whoever is at the other end of a pipe may take any time. So what reads or writes waits in a thread
of its own, and the rest goes on. Calls between threads are slow while the event loop is busy:
many lines share one.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial

from penstock.cli.aside import Aside, settle

#: A line longer than this is not kept in memory.
LONGEST_LINE = 16 * 1024 * 1024
#: So much is read at a time, or less if there is less right now.
_PIECE = 64 * 1024
_BOM = b"\xef\xbb\xbf"


class LineCutter:
    """Cuts what comes in pieces into numbered lines, without those that are blank."""

    def __init__(self, on_blank: Callable[[], None]) -> None:
        self._on_blank = on_blank
        self._line = bytearray()
        self._is_too_long = False
        self._number = 0

    def cut(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that end in ``piece``; None for one that is too long."""
        start, *starts = piece.split(b"\n")
        self._add(start)
        for start in starts:
            yield from self._end_line()
            self._add(start)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last line, if it had no end."""
        if self._line or self._is_too_long:
            yield from self._end_line()

    def _add(self, part: bytes) -> None:
        if self._is_too_long or len(self._line) + len(part) > LONGEST_LINE:
            self._is_too_long = True
            self._line.clear()
        else:
            self._line += part

    def _end_line(self) -> Iterator[tuple[int, bytes | None]]:
        line = None if self._is_too_long else bytes(self._line)
        self._line.clear()
        self._is_too_long = False
        self._number += 1
        if line is not None and self._number == 1:
            line = line.removeprefix(_BOM)
        if line is None or line.strip():
            yield self._number, line
        else:
            self._on_blank()


class LineReader:
    """Reads a file as its lines are asked for, and little further."""

    def __init__(self, file: io.BufferedReader, on_blank: Callable[[], None]) -> None:
        self._file = file
        self._cutter = LineCutter(on_blank)
        self._aside = Aside("penstock-reader")

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes | None]]:
        """Yield what :class:`LineCutter` yields.

        Raises:
            OSError: the file cannot be read to its end.
        """
        while piece := await self._aside.call(partial(self._file.read1, _PIECE)):
            for numbered in self._cutter.cut(piece):
                yield numbered
        for numbered in self._cutter.end():
            yield numbered

    def close(self) -> asyncio.Future[None]:
        """Close the file, unless a read never ends; the future tells when."""
        return self._aside.call(self._file.close)


class LineWriter:
    """Writes lines in the order in which they come, and at once.

    Those that come while a write is under way go together into the next one.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._aside = Aside("penstock-writer")
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._is_writing = False
        self._error: BaseException | None = None

    def write(self, line: bytes) -> asyncio.Future[None]:
        """Write ``line`` whatever becomes of the future, which tells when the system has it.

        The future raises OSError if a line cannot be written. After that no other is.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if not self._is_writing:
            self._write_waiting()
        return future

    async def close(self) -> None:
        """Close the file when all is written, or cannot be."""
        with suppress(OSError):
            await self.write(b"")
        await self._aside.call(self._file.close)

    def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        data = b"".join(line for line, _ in batch)
        self._is_writing = True
        call = self._aside.call(partial(self._write_all, data))
        call.add_done_callback(partial(self._written, [future for _, future in batch]))

    def _written(self, futures: list[asyncio.Future[None]], call: asyncio.Future[None]) -> None:
        self._is_writing = False
        self._error = call.exception()
        for future in futures:
            settle(future, None, self._error)
        if self._waiting:
            self._write_waiting()

    def _write_all(self, data: bytes) -> None:
        if self._error is not None:  # a line may be there in part: add nothing to it
            raise self._error
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            if written is None:
                raise BlockingIOError("the other end does not read, and does not let us wait")
            rest = rest[written:]
