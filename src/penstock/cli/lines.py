"""Lines in and lines out, of files that may be pipes.

Whoever is at the other end of a pipe may take any time. So what reads or writes waits in a thread
of its own, and the rest goes on. Calls between threads are slow while the event loop is busy:
many lines share one.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from typing import Protocol

from penstock.cli.io_thread import IoThread, settle

#: A line longer than this is not kept in memory.
LONGEST_LINE = 16 * 1024 * 1024
#: What is wrong with such a line.
TOO_LONG = f"longer than {LONGEST_LINE // 2**20} MiB"
#: So much is read at a time, or less if there is less right now.
_PIECE = 64 * 1024
BOM = b"\xef\xbb\xbf"


class LineCutter:
    """Cuts what comes in pieces into numbered lines."""

    def __init__(self, first_line: int = 1) -> None:
        self._line = bytearray()
        self._is_too_long = False
        self._number = first_line - 1

    def cut(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that end in ``piece``; None for one that is too long."""
        start, *starts = piece.split(b"\n")
        self._add(start)
        for start in starts:
            yield self._end_line()
            self._add(start)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last line, if it had no end."""
        if self._line or self._is_too_long:
            yield self._end_line()

    def _add(self, part: bytes) -> None:
        if self._is_too_long or len(self._line) + len(part) > LONGEST_LINE:
            self._is_too_long = True
            self._line.clear()
        else:
            self._line += part

    def _end_line(self) -> tuple[int, bytes | None]:
        line = None if self._is_too_long else bytes(self._line)
        self._line.clear()
        self._is_too_long = False
        self._number += 1
        if line is not None and self._number == 1:
            line = line.removeprefix(BOM)
        return self._number, line


class Readable(Protocol):
    """A file that can be read piece by piece."""

    def read1(self, size: int, /) -> bytes:
        """What is there, at most ``size`` bytes; nothing at its end."""
        ...

    def close(self) -> None:
        """Close it."""


class Reader:
    """Reads a file as what is in it is asked for, and little further."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._io_thread = IoThread("penstock-reader")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what is there, piece by piece.

        Raises:
            OSError: the file cannot be read to its end.
        """
        while piece := await self._io_thread.call(partial(self._file.read1, _PIECE)):
            yield piece

    async def close(self) -> None:
        """Close the file; after a read that is under way, which may never end: so do not wait."""
        is_read = self._io_thread.is_busy
        closed = self._io_thread.call(self._file.close)
        try:
            if not is_read:
                await closed
        finally:
            self._io_thread.end()


class LineWriter:
    """Writes lines in the order in which they come, and at once.

    Those that come while a write is under way go together into the next one.

    Args:
        file: what nobody else writes to meanwhile.
        is_journal: it is a regular file, opened to be appended to. Then it never ends within a
            line, should the disk be full, and at its end the disk has it.
    """

    def __init__(self, file: io.FileIO, is_journal: bool = False) -> None:
        self._file = file
        self._is_journal = is_journal
        self._io_thread = IoThread("penstock-writer")
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
        """Close the file when all is written, or cannot be.

        Raises:
            OSError: what was written may not be on the disk.
        """
        try:
            with suppress(OSError):
                await self.write(b"")
            await self._io_thread.call(self._close)
        finally:
            self._io_thread.end()

    def _close(self) -> None:
        with self._file:
            if self._is_journal and self._error is None:
                os.fsync(self._file.fileno())

    def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        data = b"".join(line for line, _ in batch)
        self._is_writing = True
        call = self._io_thread.call(partial(self._write_all, data))
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
        written = 0
        try:
            while written < len(data):
                count = self._file.write(memoryview(data)[written:])
                if count is None:
                    raise BlockingIOError(
                        "the reader of the output does not read, and waiting is not possible"
                    )
                written += count
        except OSError:
            self._end_with_a_whole_line(data[:written])
            raise

    def _end_with_a_whole_line(self, written: bytes) -> None:
        torn = len(written) - (written.rfind(b"\n") + 1)
        if self._is_journal and torn:
            with suppress(OSError):  # the next run does it
                self._file.truncate(os.fstat(self._file.fileno()).st_size - torn)
