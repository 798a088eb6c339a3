"""What the options of a run may say, each one checked before anything is done."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import typer

from penstock._util.checks import shown
from penstock._util.rates import parse_rate
from penstock.cli.files import STANDARD
from penstock.cli.problems import MalformedLineError
from penstock.cli.records import read_object
from penstock.cli.run.credentials import Credentials, read_credentials
from penstock.cli.run.requests import TOKEN, parse_base
from penstock.cli.run.template import Template
from penstock.cli.run.tokens import Cost
from penstock.cli.settings import read_settings
from penstock.errors import PenstockError
from penstock.telemetry import setup

#: Where an answer says its tokens, if it is not said otherwise.
COST = "usage.total_tokens"
#: The most requests at once that --concurrency auto finds out, if it is not said otherwise.
AUTO = 100


#: The exit code of what was asked for in the wrong way.
USAGE = 2


class UsageError(PenstockError):
    """It cannot be done; the message says why, and ``code`` is what the process exits with."""

    def __init__(self, problem: str, code: int = USAGE) -> None:
        super().__init__(problem)
        self.code = code


def option(
    panel: str | None, name: str, metavar: str, text: str, *, alias: str = "", **more: Any
) -> Any:
    """An option of a command, as its help shows it."""
    names = [name, alias] if alias else [name]
    return typer.Option(
        *names, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **more
    )


def flowing(text: str) -> str:
    """``text`` without the line breaks within its paragraphs, but for those that begin by \\b."""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in parts)


def refuse(problem: str, code: int = USAGE) -> NoReturn:
    """Say that it cannot be done."""
    raise UsageError(problem, code)


def said(error: Exception) -> str:
    """What an error says, without its number if it has one."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_config(context: typer.Context, name: str | None) -> None:
    """Let the options of a file be the defaults of those on the command line."""
    if name is None:
        return
    options = {
        name.lstrip("-"): option
        for option in context.command.params
        if option.name not in ("config", "help")
        for name in option.opts  # it may have two
    }
    flags = [key for key, option in options.items() if getattr(option, "is_flag", False)]
    lists = [key for key, option in options.items() if getattr(option, "multiple", False)]
    try:
        settings = read_settings(name, options, flags, lists)
    except (OSError, ValueError) as error:
        refuse(f"cannot read --config {name}: {said(error)}")
    context.default_map = {options[key].name: value for key, value in settings.items()}


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse what is too little."""
    if value < least:
        refuse(f"{name} must be at least {least}, got {value}")


def check_seconds(name: str, value: float) -> None:
    """Refuse what is no time."""
    if math.isnan(value) or value <= 0:
        refuse(f"{name} must be more than 0 seconds, got {value:g}")


def read_attempts(attempts: int | None, retry: int | None, default: int) -> int:
    """Attempts at most: ``--attempts``, or one more than the older ``--retry``."""
    if retry is not None:
        if attempts is not None:
            refuse("--attempts and --retry mean the same: give only --attempts")
        check_at_least("--retry", retry, 0)
        return retry + 1
    if attempts is None:
        return default
    check_at_least("--attempts", attempts, 1)
    return attempts


def read_concurrency(text: str) -> tuple[int, bool]:
    """How many requests at once at most, and whether that is to be found out."""
    word, colon, number = text.partition(":")
    is_auto = word.strip().lower() == "auto"
    try:
        most = AUTO if is_auto and not colon else int(number if is_auto else text)
    except ValueError:
        refuse(f"--concurrency must be a number, auto or auto:N (as in auto:50), got {shown(text)}")
    check_at_least("--concurrency", most, 1)
    return most, is_auto


def read_rate(name: str, text: str) -> tuple[float, float]:
    """So many in so many seconds."""
    try:
        return parse_rate(text)
    except ValueError as error:
        refuse(f"{name}: {error}")


def read_names(name: str, text: str | None) -> tuple[str, ...]:
    """Names of headers, with commas between them."""
    names = tuple(each.strip() for each in (text or "").split(",") if each.strip())
    for each in names:
        if not TOKEN.fullmatch(each):
            refuse(f"{name} must be names of headers such as x-request-id, got {shown(each)}")
    return names


def read_statuses(name: str, text: str | None) -> frozenset[int]:
    """HTTP statuses of failures, with commas between them."""
    found = set()
    for each in (text or "").split(",") if text is not None else ():
        status = int(each) if each.strip().isascii() and each.strip().isdigit() else 0
        if not 300 <= status <= 599:
            refuse(f"{name} must be statuses from 300 to 599 such as 409,423, got {shown(text)}")
        found.add(status)
    return frozenset(found)


def read_cost(text: str | None, is_wanted: bool) -> Cost | None:
    """Where answers say what they cost, if anybody wants to know."""
    if text is None and not is_wanted:
        return None
    try:
        return Cost.parse(text)
    except ValueError:
        refuse(f"--cost must be a path such as {COST}, or a sum of them, got {shown(text)}")


def read_base(url: str | None) -> str | None:
    """What paths are appended to."""
    if url is None:
        return None
    try:
        return parse_base(url)
    except ValueError as error:  # without the value: there may be a password in it
        refuse(f"--url {error}")


def read_secrets(
    header: Sequence[str] | None,
    header_env: Sequence[str] | None,
    bearer_env: str | None,
    param_env: Sequence[str] | None,
    bearer_command: str | None,
    base: str | None,
) -> Credentials:
    """What each request carries."""
    try:
        return read_credentials(
            *(header or (), header_env or (), bearer_env, base, os.environ),
            param_env or (),
            bearer_command,
        )
    except ValueError as error:
        refuse(str(error))


def read_template(text: str | None, base: str | None) -> Template | None:
    """What makes requests of records: JSON, or the name of a file of it."""
    if text is None:
        return None
    try:
        if text.lstrip().startswith("{"):
            content = text.encode()
        else:
            with open(text, "rb") as file:
                content = file.read()
        template = Template(read_object(content.strip()))
    except OSError as error:
        refuse(f"cannot read --template {text}: {said(error)}")
    except (MalformedLineError, ValueError) as error:
        refuse(f"--template: {error}")
    if template.has_path and base is None:
        refuse("--template has a path, which needs --url")
    return template


def set_up_telemetry(endpoint: str | None, service_name: str | None, default: str) -> None:
    """Send traces and metrics to a collector, if one is given."""
    if endpoint is None:
        return
    try:
        setup(service_name or os.environ.get("OTEL_SERVICE_NAME") or default, endpoint)
    except (ImportError, ValueError) as error:
        refuse(f"--otlp: {error}")


def stream_for_people(out: str) -> TextIO:
    """Where progress and summary go: not among the results."""
    stream = sys.stderr if out == STANDARD else sys.stdout
    if stream is None:
        return io.TextIOWrapper(open(os.devnull, "wb"))
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding
    return stream
