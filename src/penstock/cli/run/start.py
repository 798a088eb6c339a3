"""What is checked before a run begins, and opened for it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from penstock._util.checks import shown
from penstock.cli.display import say
from penstock.cli.files import STANDARD
from penstock.cli.input_file import InputFile, open_input
from penstock.cli.options import (
    check_at_least,
    check_seconds,
    read_attempts,
    read_base,
    read_concurrency,
    read_cost,
    read_names,
    read_rate,
    read_secrets,
    read_statuses,
    read_template,
    refuse,
    said,
    set_up_telemetry,
    stream_for_people,
)
from penstock.cli.report.report import ReportError, RunInfo, check_report
from penstock.cli.run.answers import AnswerJudge, FailIf
from penstock.cli.run.changes import look_for_changes
from penstock.cli.run.client import AiohttpClient
from penstock.cli.run.connections import Connections
from penstock.cli.run.credentials import Credentials
from penstock.cli.run.input_format import InputFormat, InputKind, find_format
from penstock.cli.run.job import BUDGET_SPENT, RunJob
from penstock.cli.run.journal import (
    NotAJournalError,
    PreviousRuns,
    Results,
    open_failures,
    open_results,
)
from penstock.cli.run.look_ahead import look_ahead
from penstock.cli.run.outcome import carry_out, settings_of
from penstock.cli.run.preview import preview
from penstock.cli.run.tokens import Cost

#: Attempts for each request, unless it is said otherwise.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Given:
    """What the command line says: see :mod:`penstock.cli.run.flags`."""

    file: str
    config: str | None
    quiet: bool
    json: bool
    dry_run: bool
    report: str | None
    otlp: str | None
    service_name: str | None
    url: str | None
    template: str | None
    input_format: InputKind
    delimiter: str | None
    encoding: str | None
    out: str | None
    failures: str | None
    keep_headers: str | None
    save_bodies: str | None
    retry_failed: bool
    send_changed: bool
    keep_changed: bool
    overwrite: bool
    fail_if: list[str] | None
    retry_on: str | None
    safe_methods_only: bool
    rate: list[str] | None
    tokens: str | None
    cost: str | None
    concurrency: str
    capacity: int
    no_feedback: bool
    attempts: int | None
    retry: int | None
    timeout: float
    deadline: float | None
    give_up_after: float
    max_requests: int | None
    max_tokens: int | None
    keep_going: bool
    bearer_env: str | None
    bearer_command: str | None
    header: list[str] | None
    header_env: list[str] | None
    param_env: list[str] | None
    cacert: str | None
    cert: str | None
    insecure: bool


def start(given: Given) -> int:
    """Check everything, then carry it out; return the exit code.

    Raises:
        UsageError: it cannot be done.
    """
    _check(given)
    base = read_base(given.url)
    cost = read_cost(given.cost, given.tokens is not None or given.max_tokens is not None)
    credentials = read_secrets(
        *(given.header, given.header_env, given.bearer_env, given.param_env),
        given.bearer_command,
        base,
    )
    template = read_template(given.template, base)
    judge = _judge(given, cost is not None, credentials)
    most, is_adaptive = read_concurrency(given.concurrency)
    try:
        connections = Connections(given.cacert, given.cert, given.insecure)
    except (OSError, ValueError) as error:
        refuse(said(error))
    rates = tuple(read_rate("--rate", text) for text in given.rate or ())
    token_rate = None if given.tokens is None else read_rate("--tokens", given.tokens)
    keep_headers = read_names("--keep-headers", given.keep_headers)
    attempts = read_attempts(given.attempts, given.retry, _ATTEMPTS)
    delimiter = _delimiter(given.delimiter)
    if not given.dry_run:
        _make_ready(given)
    with ExitStack() as opened:
        requests = _open_requests(given)
        opened.callback(requests.close)
        try:
            form = find_format(
                *(given.file, requests, given.input_format),
                base=base,
                template=template,
                delimiter=delimiter,
            )
            if given.dry_run or given.out is None:
                say(sys.stdout, preview(requests, form, credentials))
                return 0
            nothing = look_ahead(given.file, requests, form)
            expected = None if form.is_on_many_lines else requests.count_lines()
        except OSError as error:
            refuse(f"cannot read {given.file}: {said(error)}")
        except ValueError as error:
            refuse(f"{_called(given.file)}: {error}")
        if nothing is not None:
            refuse(nothing)
        results = _open_results(given, given.out, requests, form, cost, opened)
        try:
            failures = (
                open_failures(given.failures, requests, results.file) if given.failures else None
            )
        except (NotAJournalError, OSError) as error:
            refuse(f"cannot write --failures {given.failures}: {said(error)}")
        job = RunJob(
            name=_called(given.file),
            requests=requests,
            form=form,
            results=results,
            client=AiohttpClient(most, credentials, given.timeout, connections),
            credentials=credentials,
            concurrency=most,
            capacity=given.capacity,
            attempts=attempts,
            timeout=given.timeout,
            deadline=given.deadline,
            failures=failures,
            judge=judge,
            keep_headers=keep_headers,
            save_bodies=None if given.save_bodies is None else Path(given.save_bodies),
            is_traced=given.otlp is not None,
            rates=rates,
            tokens=token_rate,
            cost=cost,
            give_up_after=given.give_up_after,
            max_requests=given.max_requests,
            max_tokens=given.max_tokens,
            is_adaptive=is_adaptive,
            feedback=not given.no_feedback,
            retry_failed=given.retry_failed,
            send_changed=given.send_changed or (False if given.keep_changed else None),
            keep_going=given.keep_going,
        )
        opened.pop_all()  # the run closes them; a read that never ends would keep us from it
    info = RunInfo(given.file, given.url, settings_of(job, given.rate or [], given.tokens))
    style = "json" if given.json else "quiet" if given.quiet else ""
    stream = stream_for_people(given.out)
    return carry_out(job, expected, given.out, stream, given.report, info, style)


def _check(given: Given) -> None:
    """Refuse numbers that make no sense, and what contradicts itself."""
    check_at_least("--capacity", given.capacity, 1)
    check_seconds("--timeout", given.timeout)
    check_seconds("--give-up-after", given.give_up_after)
    if given.deadline is not None:
        check_seconds("--deadline", given.deadline)
    for name, most in (
        ("--max-requests", given.max_requests),
        ("--max-tokens", given.max_tokens),
    ):
        if most is not None:
            check_at_least(name, most, 1)
    if given.out is None and not given.dry_run:
        refuse("--out is missing: give the file for the results, or - for standard output")
    if given.failures == STANDARD:
        refuse("--failures must be the name of a file, and not standard output")
    if given.retry_failed and (given.overwrite or given.out == STANDARD):
        other = "--overwrite" if given.overwrite else "--out -"
        refuse(f"--retry-failed needs the results of earlier runs, and {other} keeps none")
    if given.send_changed and given.keep_changed:
        refuse("--send-changed and --keep-changed are opposites: give one")


def _make_ready(given: Given) -> None:
    """See that a report and bodies can be written, and set telemetry up."""
    if given.report is not None:
        _check_report(given.report, given.file, given.out, given.failures)
    if given.save_bodies is not None:
        _make_folder(given.save_bodies)
    if given.otlp is not None:
        set_up_telemetry(given.otlp, given.service_name, "penstock-run")
    if given.insecure:
        say(
            sys.stderr,
            "penstock: any certificate is trusted (--insecure): an attacker on the network can "
            "read and change everything, secrets too",
        )


def _called(file: str) -> str:
    return "standard input" if file == STANDARD else file


def _open_requests(given: Given) -> InputFile:
    try:
        return open_input(given.file, given.encoding)
    except OSError as error:
        refuse(f"cannot read {given.file}: {said(error)}")
    except LookupError:
        refuse(f"--encoding {given.encoding} is unknown: write cp1252 or utf-16, for example")
    except ValueError as error:
        refuse(f"{_called(given.file)}: {error}")


def _open_results(
    given: Given,
    out: str,
    requests: InputFile,
    form: InputFormat,
    cost: Cost | None,
    opened: ExitStack,
) -> Results:
    """Open the results, and see that it makes sense to go on with them."""
    try:
        results = open_results(out, requests, given.overwrite, cost)
    except (NotAJournalError, OSError) as error:
        refuse(f"cannot write --out {out}: {said(error)}")
    opened.callback(results.file.close)
    opened.callback(results.release)
    spent = _spent_before(results.earlier, given.max_requests, given.max_tokens)
    if spent is not None:
        refuse(f"earlier runs have used up {spent}: give a larger one", BUDGET_SPENT)
    if results.earlier and not (given.send_changed or given.keep_changed):
        try:
            question = look_for_changes(requests, form, results.earlier)
        except OSError as error:
            refuse(f"cannot read {given.file}: {said(error)}")
        if question is not None:
            refuse(question)
    return results


def _spent_before(
    earlier: PreviousRuns, max_requests: int | None, max_tokens: int | None
) -> str | None:
    """The budget that earlier runs have spent, if they have."""
    if max_requests is not None and earlier.calls >= max_requests:
        return f"--max-requests {max_requests}"
    if max_tokens is not None and earlier.tokens >= max_tokens:
        return f"--max-tokens {max_tokens}"
    return None


def _delimiter(text: str | None) -> str | None:
    if text is None:
        return None
    character = {"\\t": "\t", "tab": "\t"}.get(text.lower(), text)
    if len(character) != 1 or not character.isascii() or character in '"\r\n':
        refuse(f"--delimiter must be one character such as ; or tab, got {shown(text)}")
    return character


def _judge(given: Given, reads_json: bool, credentials: Credentials) -> AnswerJudge:
    try:
        conditions = tuple(map(FailIf.parse, given.fail_if or ()))
    except ValueError as error:
        refuse(f"--fail-if {error}")
    accept = next((text for n, text in credentials.headers.items() if n.lower() == "accept"), None)
    return AnswerJudge(
        conditions,
        read_statuses("--retry-on", given.retry_on),
        given.safe_methods_only,
        reads_json,
        accept is None or accept.partition(",")[0].partition(";")[0].strip().endswith("json"),
    )


def _make_folder(name: str) -> None:
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"cannot write --save-bodies {name}: {said(error)}")


def _check_report(report: str, *others: str | None) -> None:
    files = [name for name in others if name is not None and name != STANDARD]
    try:
        check_report(report, *files)
    except ReportError as error:
        refuse(f"--report: {error}")
