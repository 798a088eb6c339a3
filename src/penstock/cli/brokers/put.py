"""``penstock put``: the lines of a file become items of a queue on a broker."""

from __future__ import annotations

import asyncio
import io
import math
import sys
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer

from penstock.cli.brokers import attach as common
from penstock.cli.brokers.attach import BROKER, FILE, attach
from penstock.cli.ctrl_c import on_signals
from penstock.cli.display import say
from penstock.cli.files import open_requests
from penstock.cli.io_thread import IoThread
from penstock.cli.lines import BOM, LONGEST_LINE, TOO_LONG
from penstock.cli.options import flowing, refuse, set_up_telemetry
from penstock.cli.problems import MalformedLineError
from penstock.cli.records import read_json
from penstock.errors import BrokerError, CodecError, QueueStateError, QueueUnknownError

HELP = flowing(
    """
Put each line of FILE (- is standard input) as an item into a queue on a broker, in order, and wait
when there is no room. A line is JSON of any kind. Blank lines are skipped. A line that is not JSON,
or is too large, is refused and reported with its number. The command continues with the next line.

When interrupted, it says how many lines are done. --skip continues from there.
"""
)
EPILOG = flowing(
    """
Exit codes: 0 every line was accepted; 1 some were refused, or there was no room within --timeout; 2
wrong usage; 4 the broker cannot be reached, refuses, or did not say whether it has a line; 5 FILE
cannot be read to its end; 130 Ctrl-C, 143 SIGTERM.
"""
)


def put(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    broker: common.Url,
    queue: common.Name,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time that a line may wait for room before the command stops (no limit).",
            show_default=False,
        ),
    ] = math.inf,
    skip: Annotated[int, typer.Option(metavar="N", help="Leave out the first N lines.")] = 0,
    maxsize: common.Maxsize = None,
    replicas: common.Replicas = None,
    ack_wait: common.AckWait = None,
    creds: common.Creds = None,
    tls_ca: common.TlsCa = None,
    tls_cert: common.TlsCert = None,
    tls_key: common.TlsKey = None,
    otlp: common.Otlp = None,
    service_name: common.ServiceName = None,
) -> int:
    """Check everything, then carry it out."""
    where = common.target_of(broker, queue, creds, tls_ca, tls_cert, tls_key)
    if not timeout >= 0:
        refuse(f"--timeout must be 0 seconds or more, got {timeout:g}")
    if skip < 0:
        refuse(f"--skip must be at least 0, got {skip}")
    with ExitStack() as opened:
        try:
            lines = opened.enter_context(open_requests(file))
        except OSError as error:
            refuse(f"cannot read {file}: {error.strerror or error}")
        set_up_telemetry(otlp, service_name, "penstock-put")

        async def fill() -> int:
            attached = await attach(
                where, given={"maxsize": maxsize, "replicas": replicas, "ack_wait": ack_wait}
            )
            filling = Filling(attached, lines, timeout, skip)
            try:
                return await filling()
            finally:
                if filling.is_reading:
                    opened.pop_all()  # to close the file would wait for a read that may never end
                filling.close()

        return asyncio.run(fill())


class Filling:
    """Puts lines into a queue, one after the other, and knows what became of each."""

    def __init__(self, queue: Any, lines: io.BufferedReader, timeout: float, skip: int) -> None:
        self._queue = queue
        self._lines = lines
        self._timeout = timeout
        self._skip = skip
        self._io_thread = IoThread("penstock-reader")
        self._accepted = self._refused = 0
        #: Lines from the first on of which it is known what became.
        self._settled = 0
        self._interrupted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stop: asyncio.Task[bool] | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the file is being read."""
        return self._io_thread.is_busy

    def close(self) -> None:
        """Put no more."""
        self._io_thread.end()

    async def __call__(self) -> int:
        """Put them all, say what came of it, and return the exit code."""
        task = asyncio.current_task()
        assert task is not None

        def interrupt(number: int) -> None:
            if not self._interrupted.done():
                self._interrupted.set_result(number)
                # What waits for room is let go; what the server has been asked gets its answer.
                self._stop = asyncio.create_task(self._queue.stop())
            else:
                task.cancel()

        code, why = 0, ""
        try:
            with on_signals(interrupt):
                code, why = await self._put_all()
                await (self._stop or self._queue.stop())
        except asyncio.CancelledError:
            code, why = 128 + self._interrupted.result(), self._doubt()
        if self._interrupted.done():
            code = 128 + self._interrupted.result()
        self._report(why, is_complete=code in (0, 1) and not why)
        return code

    async def _put_all(self) -> tuple[int, str]:
        """Put line after line; the exit code, and why it ended early if it did."""
        while not self._interrupted.done():
            try:
                line = await self._next()
            except OSError as error:
                return FILE, f"cannot continue to read: {error.strerror or error}"
            if line is None:
                break
            number = self._settled + 1
            if number > self._skip and line.strip():
                ended = await self._put(number, line)
                if ended is not None:
                    return ended
            self._settled = number
        return 1 if self._refused else 0, "interrupted" if self._interrupted.done() else ""

    async def _put(self, number: int, line: bytes) -> tuple[int, str] | None:
        """Put one; if it is the last that can be, the exit code and why."""
        ended = None
        try:
            if await self._queue.put(_item(number, line), self._timeout):
                self._accepted += 1
            else:
                ended = 1, f"line {number}: no room in {self._timeout:g} s"
        except (CodecError, MalformedLineError) as error:
            self._refused += 1
            say(sys.stderr, f"line {number}: {error}")
        except QueueUnknownError as error:
            ended = BROKER, f"line {number}: {error}\n{self._doubt()}"
        except BrokerError as error:
            ended = BROKER, f"line {number}: {error}"
        except QueueStateError:  # interrupted while it waited for room: it is not in
            ended = 0, "interrupted"
        return ended

    async def _next(self) -> bytes | None:
        """The next line; None at the end, and where a signal comes first."""
        reading = self._io_thread.call(partial(_read_line, self._lines))
        either: list[asyncio.Future[Any]] = [reading, self._interrupted]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return None
        return reading.result() or None

    def _doubt(self) -> str:
        number = self._settled + 1
        return (
            f"line {number} may be in the queue or not: with --skip {self._settled} it may be "
            f"in the queue twice, with --skip {number} not at all"
        )

    def _report(self, why: str, *, is_complete: bool) -> None:
        if why:
            say(sys.stderr, f"penstock: {why}")
        accepted = f"{self._accepted} item{'' if self._accepted == 1 else 's'}"
        say(sys.stdout, f"{'accepted':<13}{accepted}")
        say(sys.stdout, f"{'refused':<13}{self._refused}")
        if not is_complete:
            done = self._settled
            say(sys.stdout, f"{'stopped':<13}after line {done}; to continue: --skip {done}")


def _read_line(file: io.BufferedReader) -> bytes:
    line = file.readline(LONGEST_LINE)
    rest = line
    while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):  # keep no more, but find its end
        rest = file.readline(LONGEST_LINE)
    return line


def _item(number: int, line: bytes) -> Any:
    if len(line) == LONGEST_LINE:
        raise MalformedLineError(TOO_LONG)
    return read_json(line.removeprefix(BOM) if number == 1 else line)
