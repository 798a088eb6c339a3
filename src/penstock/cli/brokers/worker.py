"""``penstock worker``: call a function with each item of a queue on NATS."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import reduce
from typing import Annotated, Any, NoReturn

import typer

from penstock._util.checks import shown
from penstock.cli.brokers import attach as common
from penstock.cli.brokers.attach import attach
from penstock.cli.ctrl_c import on_signals
from penstock.cli.display import say
from penstock.cli.options import flowing, option, read_attempts, refuse, set_up_telemetry
from penstock.limits import Limit, Limiter, RetryPolicy

HELP = flowing(
    """
Call MODULE:FUNCTION, async or plain, with each item of a queue on NATS, and tell the server that an
item is done when the function has returned. The module is looked for in the current directory too.
If a call raises a temporary error, the item is attempted again, up to --attempts in all. Then it
becomes a dead letter (penstock queue NAME --dead-letters 10). An item may come twice.

The first SIGTERM or Ctrl-C: finish the items in hand, take no more. The second: return them now.
"""
)
EPILOG = flowing(
    """
Exit codes: 0 stopped, all items in hand are done; 1 stopped, some were returned for another
worker; 2 wrong usage; 4 NATS cannot be reached or refuses.
"""
)

#: Seconds in which a shared rate may answer before the work begins.
_GREETING = 3.0


def worker(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", show_default=False)],
    nats: common.Servers,
    queue: common.Name,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", "--concurrency", metavar="N", help="Calls of the function at once."
        ),
    ] = 1,
    attempts: Annotated[
        int | None,
        option(None, "--attempts", "N", "Attempts for each item at most (1)."),
    ] = None,
    retry: Annotated[
        int | None,
        option(None, "--retry", "N", "N more attempts after the first.", hidden=True),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar="N/TIME", help="Calls of this process at most, as in 500/min."),
    ] = None,
    shared_rate: Annotated[
        str | None,
        typer.Option(metavar="N/TIME", help="Calls of all workers of this queue at most."),
    ] = None,
    max_deliveries: Annotated[
        int, typer.Option(metavar="N", help="Deliveries of an item, before it is a dead letter.")
    ] = 20,
    stop_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Time to finish the items in hand at a stop (no limit)."
        ),
    ] = None,
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
    """Check everything, then work until a signal comes."""
    where = common.nats_target(nats, queue, creds, tls_ca, tls_cert, tls_key)
    if workers < 1:
        refuse(f"--workers must be at least 1, got {workers}")
    most = read_attempts(attempts, retry, 1)
    if stop_timeout is not None and not stop_timeout >= 0:
        refuse(f"--stop-timeout must be 0 seconds or more, got {stop_timeout:g}")
    if rate is not None and shared_rate is not None:
        refuse("--rate is for this process, and --shared-rate for all: give one of them")
    own, shared = _limits("--rate", rate), _limits("--shared-rate", shared_rate)
    called = _load(function)
    # After the import: if the module sets logging up, that is how it is to be.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    set_up_telemetry(otlp, service_name, "penstock-worker")

    async def work() -> bool:
        limiter = common.shared_limiter(where, shared) if shared else None
        try:
            attached = await attach(
                where,
                given={"maxsize": maxsize, "replicas": replicas, "ack_wait": ack_wait},
                max_deliveries=max_deliveries,
                limits=limiter or own,
                retry=RetryPolicy(most) if most > 1 else None,
            )
            if limiter is not None:
                await _check_rates(limiter, attached)
            return await _work(attached, called, workers, stop_timeout)
        finally:
            if limiter is not None:
                await limiter.aclose()

    finished_all = asyncio.run(work())
    if not finished_all:
        _leave_threads()
    return 0 if finished_all else 1


async def _check_rates(limiter: Limiter, queue: Any) -> None:
    """Refuse to work if others have other rates: each item would fail for it."""
    try:
        permit = await asyncio.wait_for(limiter.acquire(), _GREETING)
    except asyncio.TimeoutError:  # others use it up, or NATS is slow: they may well be the same
        return
    except ValueError as error:
        await queue.stop(0)
        refuse(f"--shared-rate: {error}")
    permit.give_back()


async def _work(
    queue: Any, function: Callable[[Any], Any], workers: int, stop_timeout: float | None
) -> bool:
    """Work until a signal comes; whether all that was in hand then is done."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    stops: list[asyncio.Task[bool]] = []
    handed_back = 0

    def in_hand() -> int:
        count: int = queue.statistics().inflight
        return count

    def insist() -> None:
        nonlocal handed_back
        if len(stops) == 1 and not stops[0].done():
            handed_back = in_hand()
            stops.append(asyncio.create_task(queue.stop(0)))

    def stop(number: int) -> None:
        if stops:
            insist()
            return
        say(
            sys.stderr,
            f"penstock: stopping, {in_hand()} in hand (press again to return them at once)",
        )
        stops.append(asyncio.create_task(queue.stop()))
        if stop_timeout is not None:
            loop.call_later(stop_timeout, insist)
        asked.set()

    with on_signals(stop):
        try:
            await queue.start_workers(function, workers)
        except (TypeError, ValueError) as error:
            await queue.stop(0)
            refuse(str(error))
        say(sys.stderr, f"penstock: {workers} worker(s) take from queue {queue.name}")
        await asked.wait()
        await stops[0]
        for each in stops:
            await each
    done = queue.metrics
    say(
        sys.stderr,
        f"penstock: processed {done['processed']}, {done['errors']} of them failed"
        + (f"; {handed_back} returned" if handed_back else ""),
    )
    return not handed_back


def _limits(name: str, rate: str | None) -> list[Limit]:
    try:
        return [] if rate is None else [Limit.parse(rate, name="calls")]
    except ValueError as error:
        refuse(f"{name}: {error}")


def _load(text: str) -> Callable[[Any], Any]:
    """The function that ``module:function`` names."""
    name, _, path = text.partition(":")
    if not (name and path):
        refuse(f"MODULE:FUNCTION must look like jobs:send, got {shown(text)}")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            _refuse_import(name, error)
        refuse(f"there is no module {name}, neither in {os.getcwd()} nor installed")
    except Exception as error:  # noqa: BLE001 - whatever the module raises
        _refuse_import(name, error)
    try:
        function = reduce(getattr, path.split("."), module)
    except AttributeError:
        refuse(f"module {name} has no {path}")
    if not callable(function):
        refuse(f"{text} must be a function, got {type(function).__name__}")
    called: Callable[[Any], Any] = function
    return called


def _refuse_import(name: str, error: Exception) -> NoReturn:
    traceback.print_exc()
    refuse(f"module {name} cannot be imported: {type(error).__name__}: {error}")


def _leave_threads() -> None:
    """End now if a plain function is still at it: Python would wait for its thread."""
    stuck = [one for one in threading.enumerate() if one.name.startswith("penstock-worker")]
    if stuck:
        say(sys.stderr, f"penstock: {len(stuck)} call(s) cancelled before their end")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(1)
