"""``penstock queue``: what is in a queue on a broker, and in its dead letters."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from penstock.cli.brokers import attach as common
from penstock.cli.brokers.attach import BROKER, attach
from penstock.cli.ctrl_c import on_signals
from penstock.cli.display import say
from penstock.cli.options import flowing, refuse
from penstock.errors import BrokerError

if TYPE_CHECKING:
    from penstock.brokers.engine import BrokerDeadLetter, BrokerProcess, BrokerQueueInfo

HELP = flowing(
    """
Show the queue NAME on its broker: on a terminal as a table that is updated each second until
Ctrl-C, elsewhere in one line. The server knows the size, the items in flight and the dead letters.
The processes that have the queue open report the rest, which they count from their start.
"""
)
EPILOG = flowing(
    """
Exit codes: 0 done; 1 --redrive put back some and not all; 2 wrong usage; 4 the broker cannot be
reached, refuses, or has no such queue; 143 SIGTERM.
"""
)

#: Seconds between two looks, and in which processes may answer.
_PERIOD, _ANSWERS = 1.0, 0.5
#: Characters of an item, where people read it.
_LONGEST = 200


def watch(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    broker: common.Url,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON, once, also on a terminal.")
    ] = False,
    dead_letters: Annotated[
        int | None,
        typer.Option(metavar="N", help="Show the oldest N dead letters, and their errors."),
    ] = None,
    redrive: Annotated[
        bool, typer.Option("--redrive", help="Put the dead letters back, the oldest first.")
    ] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Hand out nothing, to any process, until --resume.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End a pause of all processes.")] = False,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long --redrive waits for room, for each item."),
    ] = 5.0,
    creds: common.Creds = None,
    tls_ca: common.TlsCa = None,
    tls_cert: common.TlsCert = None,
    tls_key: common.TlsKey = None,
) -> int:
    """Check everything, then look."""
    where = common.target_of(broker, name, creds, tls_ca, tls_cert, tls_key)
    if dead_letters is not None and dead_letters < 1:
        refuse(f"--dead-letters must be at least 1, got {dead_letters}")
    if not timeout >= 0:
        refuse(f"--timeout must be 0 seconds or more, got {timeout:g}")
    if pause and resume:
        refuse("--pause or --resume: give one")

    async def look() -> int:
        async with await attach(where, may_make=False) as queue:
            if pause or resume:
                await (queue.pause_all() if pause else queue.resume_all())
                say(sys.stdout, f"{name}: {'paused' if pause else 'resumed'}, for all processes")
                return 0
            if dead_letters is not None:
                await _show_letters(queue, dead_letters, as_json)
            if redrive:
                return await _redrive(queue, timeout)
            if dead_letters is not None:
                return 0
            console = Console(file=sys.stdout)
            if as_json or not console.is_terminal or console.is_dumb_terminal:
                seen = await _look(queue)
                say(sys.stdout, seen.as_json() if as_json else seen.as_line())
                return 0
            return await _keep_looking(queue, console)

    try:
        return asyncio.run(look())
    except BrokerError as error:
        refuse(str(error), BROKER)


@dataclass(frozen=True)
class Seen:
    """A queue at one instant."""

    info: BrokerQueueInfo
    processes: list[BrokerProcess]

    def as_json(self) -> str:
        """All of it, in one line."""
        rest = {"waiting": self.waiting, "refused": self.refused}
        processes = [asdict(process) for process in self.processes]
        return json.dumps({**asdict(self.info), **rest, "processes": processes})

    def as_line(self) -> str:
        """What people ask for, in one line."""
        info = self.info
        return (
            f"{info.name}: {info.size} of {info.maxsize} ({self.waiting} waiting, {info.in_flight} "
            f"in flight), {self.refused} refused, {info.redelivered} redelivered, "
            f"{info.dead_letters} dead letters, {self.workers} workers ({self.idle} idle), "
            f"{len(self.processes)} processes"
            + ("" if self.replicas is None else f", {self.replicas} replicas")
            + (", paused" if info.is_paused else "")
        )

    def as_table(self, news: str) -> Table:
        """The same for a terminal."""
        info = self.info
        table = Table(title=f"queue {info.name}", show_header=False, caption=news)
        is_full = info.size >= info.maxsize
        table.add_row("size", f"{info.size} / {info.maxsize}", style="yellow" if is_full else None)
        table.add_row("waiting", str(self.waiting))
        table.add_row("in flight", str(info.in_flight))
        table.add_row("redelivered", str(info.redelivered))
        table.add_row(
            "dead letters", str(info.dead_letters), style="red" if info.dead_letters else None
        )
        if self.replicas is not None:
            table.add_row("replicas", str(self.replicas))
        if info.is_paused:
            table.add_row("paused", "for all processes", style="yellow")
        table.add_section()  # what the processes say
        table.add_row("processes", str(len(self.processes)))
        table.add_row("workers", f"{self.workers}, {self.idle} idle")
        table.add_row("refused", str(self.refused))
        return table

    @property
    def replicas(self) -> int | None:
        """On how many servers each item is, where the broker has several."""
        return getattr(self.info, "replicas", None)

    @property
    def waiting(self) -> int:
        """Items that no worker has, and that wait for no retry."""
        return max(0, self.info.size - self.info.in_flight)

    @property
    def refused(self) -> int:
        """Puts that found no room, of the processes that are there now."""
        return sum(process.refused for process in self.processes)

    @property
    def workers(self) -> int:
        """Workers of all processes."""
        return sum(process.workers for process in self.processes)

    @property
    def idle(self) -> int:
        """Workers with nothing in hand."""
        return sum(max(0, one.workers - one.in_flight) for one in self.processes)


async def _look(queue: Any) -> Seen:
    info, processes = await asyncio.gather(queue.info(), queue.processes(_ANSWERS))
    return Seen(info, processes)


async def _keep_looking(queue: Any, console: Console) -> int:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(128 + number)

    seen = await _look(queue)
    seen_at = loop.time()
    looking: asyncio.Task[Seen] | None = None
    with on_signals(stop), Live(console=console, auto_refresh=False) as live:
        while not stopped.done():
            age = loop.time() - seen_at
            is_old = age > 3 * _PERIOD
            news = f"no answer for {age:.0f} s" if is_old else "Ctrl-C ends"
            live.update(seen.as_table(news), refresh=True)
            await asyncio.wait([stopped], timeout=_PERIOD)
            looking = looking or asyncio.create_task(_look(queue))
            either: list[asyncio.Future[Any]] = [looking, stopped]
            await asyncio.wait(either, timeout=_PERIOD, return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                with suppress(BrokerError):  # the table says how long ago it was
                    seen, seen_at = looking.result(), loop.time()
                looking = None
    if looking is not None:
        looking.cancel()
        await asyncio.wait([looking])
    code = stopped.result()
    return 0 if code == 130 else code


async def _show_letters(queue: Any, count: int, as_json: bool) -> None:
    for letter in await queue.look_at_dead_letters(count):
        say(sys.stdout, _letter_as_json(letter) if as_json else _letter_as_text(letter))


def _letter_as_json(letter: BrokerDeadLetter[Any]) -> str:
    told: dict[str, Any] = {
        "number": letter.number,
        "deliveries": letter.deliveries,
        "error_type": letter.error_type,
        "error": letter.error,
    }
    if _is_json(letter):
        told["item"] = letter.item
    else:
        told["data_base64"] = base64.b64encode(letter.data).decode()
    return json.dumps(told)


def _letter_as_text(letter: BrokerDeadLetter[Any]) -> str:
    item = json.dumps(letter.item) if _is_json(letter) else f"{len(letter.data)} bytes, not JSON"
    if len(item) > _LONGEST:
        item = f"{item[:_LONGEST]}... (--json has all)"
    times = "once" if letter.deliveries == 1 else f"{letter.deliveries} times"
    error = " ".join(f"{letter.error_type}: {letter.error}".split("\n"))
    return f"{letter.number}. delivered {times}, {error}\n    {item}"


def _is_json(letter: BrokerDeadLetter[Any]) -> bool:
    return letter.item is not None or letter.data.strip() == b"null"


async def _redrive(queue: Any, timeout: float) -> int:
    count = await queue.redrive(timeout)
    left = (await queue.info()).dead_letters
    say(sys.stdout, f"put back {count}, {left} dead letters are left")
    return 1 if left else 0
