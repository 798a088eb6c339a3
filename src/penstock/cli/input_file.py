"""The input, whatever it is packed and encoded in: read as UTF-8, or refused with a guess."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable
from typing import Any, cast

from penstock._util.compat import load_zstd
from penstock.cli.files import STANDARD
from penstock.errors import PenstockError

#: Bytes that are looked at to find out what a file is.
_HEAD = 64 * 1024
_PIECE = 64 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: How files begin that are no text, what they are, and what to do with them.
_BINARY = (
    (b"PK\x03\x04", "a zip archive, as .xlsx and .ods files are: save the table as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file: save the table as CSV (UTF-8)"),
    (b"PAR1", "a Parquet file: export it as CSV or JSON lines"),
    (b"SQLite format 3\0", "an SQLite database: export the table as CSV"),
    (b"%PDF", "a PDF"),
    (b"BZh", "compressed with bzip2: write bzcat FILE | penstock run - ..."),
    (b"\xfd7zXZ\0", "compressed with xz: write xzcat FILE | penstock run - ..."),
)
#: Marks at the beginning of a text that name its encoding; the longer ones first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableError(PenstockError, ValueError):
    """The input is nothing that can be read; the message says what it may be."""


class InputFile:
    """A file of records, unpacked and as UTF-8.

    Args:
        raw: the file as it is.
        encoding: what its text is encoded in; None: UTF-8, or what its first bytes name.

    Raises:
        OSError: it cannot be read.
        UnreadableError: it is no text.
        LookupError: there is no such encoding.
    """

    def __init__(self, raw: io.BufferedReader, encoding: str | None = None) -> None:
        self._raw = raw
        self._encoding = encoding
        if encoding is not None:
            codecs.lookup(encoding)
        #: Bytes of the text before the first record: the names of columns.
        self.skipped = 0
        #: What is read from.
        self.reader = self._opened()
        #: The first bytes of the text.
        self.head = self.reader.peek(_HEAD)[:_HEAD]
        _refuse_binary(self.head)

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._raw.fileno()

    @property
    def can_rewind(self) -> bool:
        """Whether it can be read twice."""
        return stat.S_ISREG(os.fstat(self.fileno()).st_mode) and self._raw.seekable()

    def rewind(self) -> None:
        """Read from the first record on again."""
        self._raw.seek(0)
        self.reader = self._opened()
        self.reader.read(self.skipped)

    def read1(self, size: int) -> bytes:
        """What is there of the text, at most ``size`` bytes; nothing at its end.

        Raises:
            OSError: the file cannot be read on.
        """
        return self.reader.read1(size)

    def close(self) -> None:
        """Close the file."""
        self.reader.close()
        self._raw.close()

    def count_lines(self) -> int | None:
        """How many lines there are from here on; None if it cannot be read twice."""
        if not self.can_rewind:
            return None
        lines, end = 0, b"\n"
        while piece := self.reader.read(_PIECE):
            lines += piece.count(b"\n")
            end = piece[-1:]
        self.rewind()
        return lines if end == b"\n" else lines + 1

    def _opened(self) -> io.BufferedReader:
        reader = self._raw
        begin = reader.peek(4)[:4]
        if begin.startswith(_GZIP):
            unpacked = gzip.GzipFile(fileobj=reader, mode="rb")
            reader = _buffered(_Pieces(unpacked.read1, (EOFError, zlib.error)))
        elif begin == _ZSTD:
            reader = _buffered(_Pieces(_unpacked_zstd(reader), (EOFError, _zstd_error())))
        encoding = self._encoding or _encoding_of(reader.peek(4)[:4])
        if encoding is None or codecs.lookup(encoding).name == "utf-8":
            return reader
        decoder = codecs.getincrementaldecoder(encoding)()
        return _buffered(_Pieces(_transcoded(reader, decoder, encoding)))


def open_input(name: str, encoding: str | None = None) -> InputFile:
    """Open the file of requests; ``-`` is standard input.

    Raises:
        OSError: it cannot be read.
        UnreadableError: it is no text; the message says what it may be, and what to do.
    """
    if name != STANDARD:
        raw = open(name, "rb")  # noqa: SIM115 - whoever gets it closes it
    elif sys.stdin is None:
        raise OSError("standard input is closed")
    else:
        # Not sys.stdin.buffer: Python closes that one when it ends, and would wait for the reader.
        raw = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
    try:
        return InputFile(raw, encoding)
    except BaseException:
        raw.close()
        raise


class _Pieces(io.RawIOBase):
    """A file whose bytes come in pieces from a function; what it raises becomes an OSError."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        broken: tuple[type[Exception], ...] = (),
    ) -> None:
        self._read = read
        self._broken = broken
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            try:
                self._rest = self._read(_PIECE)
            except self._broken as error:
                raise OSError(f"its compressed data is damaged: {error}") from None
        piece = self._rest[: len(buffer)]
        self._rest = self._rest[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _buffered(pieces: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(pieces, _HEAD)


def _transcoded(
    reader: io.BufferedReader, decoder: codecs.IncrementalDecoder, encoding: str
) -> Callable[[int], bytes]:
    is_over = False

    def read(size: int) -> bytes:
        nonlocal is_over
        while not is_over:
            piece = reader.read1(size)
            is_over = not piece
            try:
                text = decoder.decode(piece, final=is_over)
            except UnicodeDecodeError as error:
                raise OSError(f"it is not {encoding}: {error.reason}") from None
            if text:
                return text.encode("utf-8", "surrogatepass")
        return b""

    return read


def _zstd() -> Any:
    try:
        return load_zstd()
    except ImportError:
        raise OSError("it is compressed with Zstandard: pip install 'penstock[cli]'") from None


def _zstd_error() -> type[Exception]:
    return cast("type[Exception]", _zstd().ZstdError)


def _unpacked_zstd(reader: io.BufferedReader) -> Callable[[int], bytes]:
    read: Callable[[int], bytes] = _zstd().ZstdFile(reader, "rb").read1
    return read


def _encoding_of(begin: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), None)


def _refuse_binary(head: bytes) -> None:
    for begin, what in _BINARY:
        if head.startswith(begin):
            raise UnreadableError(f"it is {what}")
    nulls = head[:1000].count(0)
    if nulls:
        if nulls > len(head[:1000]) / 4:
            order = "le" if head[1:2] == b"\0" else "be"
            raise UnreadableError(f"it looks like UTF-16: give --encoding utf-16-{order}")
        raise UnreadableError("it is not text: it has zero bytes")


def check_utf8(head: bytes) -> None:
    """Refuse a table that is not UTF-8.

    Raises:
        UnreadableError: it is not; the message says what to type.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"it is not UTF-8 (byte {error.start + 1}): give --encoding cp1252 if it comes from "
            "Windows or Excel, or --encoding latin-1 for other western European text"
        ) from None
