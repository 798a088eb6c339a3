"""``penstock run``: what is checked before anything is done."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from penstock._util.checks import shown
from penstock.cli.display import say
from penstock.cli.files import STANDARD
from penstock.cli.input_file import open_input
from penstock.cli.options import (
    check_at_least,
    check_seconds,
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
from penstock.cli.run import flags
from penstock.cli.run.answers import FailIf, Judge
from penstock.cli.run.changes import look_for_changes
from penstock.cli.run.client import Client
from penstock.cli.run.connections import Connections
from penstock.cli.run.credentials import Credentials
from penstock.cli.run.input_format import InputKind, find_format
from penstock.cli.run.job import BUDGET_SPENT, RunJob
from penstock.cli.run.journal import NotAJournalError, PreviousRuns, open_failures, open_results
from penstock.cli.run.look_ahead import look_ahead
from penstock.cli.run.outcome import carry_out, settings_of
from penstock.cli.run.preview import preview

HELP = """
Send the HTTP requests in FILE under a service's limits, and write the answers to another file.
The same command again goes on where it stopped.

\b
  penstock run requests.jsonl --url https://api.example.com --out results.jsonl
  penstock run items.csv --template '{"path": "/items/{sku}"}' --url ... --out results.jsonl
  penstock run requests.jsonl --rate 500/min --bearer-env TOKEN --url ... --out results.jsonl

FILE has a request a line, as {"path": "/items/7"} or {"url": "https://..."}; beside it may be id,
method, params, headers and a body: json, form, text, body_base64 or multipart. - is standard input.
"""

EPILOG = """
Exit codes: 0 all succeeded; 1 some failed; 2 wrong usage, or RESULTS is in use: nothing was sent;
stopped by 3 a 401 or spent credit, 4 no answer from anybody, 5 a file, 129 SIGHUP, 130 Ctrl-C, 143
SIGTERM.
"""

#: Attempts for each request, and seconds for each attempt, unless it is said otherwise.
_ATTEMPTS, _TIMEOUT = 5, 600.0


def run(
    file: flags.File,
    config: flags.Config = None,
    quiet: flags.Quiet = False,
    as_json: flags.AsJson = False,
    dry_run: flags.DryRun = False,
    report: flags.Report = None,
    otlp: flags.Otlp = None,
    service_name: flags.ServiceName = None,
    url: flags.Url = None,
    template: flags.TemplateText = None,
    input_format: flags.Kind = InputKind.AUTO,
    delimiter: flags.Delimiter = None,
    encoding: flags.Encoding = None,
    out: flags.Out = None,
    failures: flags.Failures = None,
    keep_headers: flags.KeepHeaders = None,
    save_bodies: flags.SaveBodies = None,
    retry_failed: flags.RetryFailed = False,
    send_changed: flags.SendChanged = False,
    keep_changed: flags.KeepChanged = False,
    overwrite: flags.Overwrite = False,
    fail_if: flags.FailIf = None,
    retry_on: flags.RetryOn = None,
    safe_methods_only: flags.SafeMethodsOnly = False,
    rate: flags.Rate = None,
    tokens: flags.Tokens = None,
    cost: flags.Cost = None,
    concurrency: flags.Concurrency = "10",
    capacity: flags.Capacity = 100,
    no_feedback: flags.NoFeedback = False,
    attempts: flags.Attempts = None,
    retry: flags.Retry = None,
    timeout: flags.Timeout = _TIMEOUT,
    deadline: flags.Deadline = None,
    max_requests: flags.MaxRequests = None,
    max_tokens: flags.MaxTokens = None,
    keep_going: flags.KeepGoing = False,
    bearer_env: flags.BearerEnv = None,
    bearer_command: flags.BearerCommand = None,
    header: flags.Header = None,
    header_env: flags.HeaderEnv = None,
    param_env: flags.ParamEnv = None,
    cacert: flags.CaCert = None,
    cert: flags.Cert = None,
    insecure: flags.Insecure = False,
) -> int:
    """Check everything, then carry it out."""
    check_at_least("--capacity", capacity, 1)
    check_seconds("--timeout", timeout)
    if deadline is not None:
        check_seconds("--deadline", deadline)
    most_attempts = _attempts(attempts, retry)
    most, is_adaptive = read_concurrency(concurrency)
    rates = [read_rate("--rate", text) for text in rate or ()]
    token_rate = None if tokens is None else read_rate("--tokens", tokens)
    where = read_cost(cost, tokens is not None or max_tokens is not None)
    if max_requests is not None:
        check_at_least("--max-requests", max_requests, 1)
    if max_tokens is not None:
        check_at_least("--max-tokens", max_tokens, 1)
    base = read_base(url)
    credentials = read_secrets(header, header_env, bearer_env, param_env, bearer_command, base)
    judge = _judge(fail_if, retry_on, safe_methods_only, where is not None, credentials)
    filled = read_template(template, base)
    if out is None and not dry_run:
        refuse("--out is missing: the file that results go to, or - for standard output")
    if failures == STANDARD:
        refuse("--failures must be the name of a file, and not standard output")
    if retry_failed and (overwrite or out == STANDARD):
        other = "--overwrite" if overwrite else "--out -"
        refuse(f"--retry-failed needs the results of earlier runs, and {other} leaves none")
    if send_changed and keep_changed:
        refuse("--send-changed and --keep-changed are opposites: give one")
    try:
        connections = Connections(cacert, cert, insecure)
    except (OSError, ValueError) as error:
        refuse(said(error))
    client = Client(most, credentials, timeout, connections)
    if report is not None and not dry_run:
        _check_report(report, file, out, failures)
    if save_bodies is not None and not dry_run:
        _make_folder(save_bodies)
    if otlp is not None and not dry_run:
        set_up_telemetry(otlp, service_name, "penstock-run")
    if insecure and not dry_run:
        say(
            sys.stderr,
            "penstock: any certificate is trusted (--insecure): whoever is between here and the "
            "service can read and change everything, secrets too",
        )
    if delimiter is not None:
        delimiter = _delimiter(delimiter)
    with ExitStack() as opened:
        try:
            requests = open_input(file, encoding)
            opened.callback(requests.close)
            form = find_format(
                file, requests, input_format, base=base, template=filled, delimiter=delimiter
            )
            if out is None or dry_run:
                say(sys.stdout, preview(requests, form, credentials))
                return 0
            nothing = look_ahead(file, requests, form)
            if nothing is not None:
                refuse(nothing)
            expected = None if form.is_on_many_lines else requests.count_lines()
        except OSError as error:
            refuse(f"cannot read {file}: {said(error)}")
        except LookupError:
            refuse(f"--encoding {encoding}: there is no such encoding; utf-16 and cp1252 are some")
        except ValueError as error:
            refuse(f"{'standard input' if file == STANDARD else file}: {error}")
        try:
            results = open_results(out, requests, overwrite, where)
        except (NotAJournalError, OSError) as error:
            refuse(f"cannot write --out {out}: {said(error)}")
        opened.callback(results.file.close)
        opened.callback(results.release)
        spent = _spent_before(results.earlier, max_requests, max_tokens)
        if spent is not None:
            refuse(f"{spent} is spent by earlier runs already; give a larger one", BUDGET_SPENT)
        if results.earlier and not (send_changed or keep_changed):
            question = look_for_changes(requests, form, results.earlier)
            if question is not None:
                refuse(question)
        try:
            failed = open_failures(failures, requests, results.file) if failures else None
        except (NotAJournalError, OSError) as error:
            refuse(f"cannot write --failures {failures}: {said(error)}")
        job = RunJob(
            name=file,
            requests=requests,
            form=form,
            results=results,
            client=client,
            credentials=credentials,
            concurrency=most,
            capacity=capacity,
            attempts=most_attempts,
            timeout=timeout,
            deadline=deadline,
            failures=failed,
            judge=judge,
            keep_headers=read_names("--keep-headers", keep_headers),
            save_bodies=None if save_bodies is None else Path(save_bodies),
            is_traced=otlp is not None,
            rates=tuple(rates),
            tokens=token_rate,
            cost=where,
            max_requests=max_requests,
            max_tokens=max_tokens,
            is_adaptive=is_adaptive,
            feedback=not no_feedback,
            retry_failed=retry_failed,
            send_changed=True if send_changed else False if keep_changed else None,
            keep_going=keep_going,
        )
        opened.pop_all()  # the run closes them; a read that never ends would keep us from it
    info = RunInfo(file, url, settings_of(job, rate or [], tokens))
    style = "json" if as_json else "quiet" if quiet else ""
    return carry_out(job, expected, out, stream_for_people(out), report, info, style)


def _spent_before(
    earlier: PreviousRuns, max_requests: int | None, max_tokens: int | None
) -> str | None:
    """The budget that earlier runs have spent, if they have."""
    if max_requests is not None and earlier.calls >= max_requests:
        return f"--max-requests {max_requests}"
    if max_tokens is not None and earlier.tokens >= max_tokens:
        return f"--max-tokens {max_tokens}"
    return None


def _delimiter(text: str) -> str:
    character = {"\\t": "\t", "tab": "\t"}.get(text.lower(), text)
    if len(character) != 1 or not character.isascii() or character in '"\r\n':
        refuse(f"--delimiter must be one character such as ; or tab, got {shown(text)}")
    return character


def _attempts(attempts: int | None, retry: int | None) -> int:
    if retry is not None:
        if attempts is not None:
            refuse("--attempts and --retry say the same: give --attempts")
        check_at_least("--retry", retry, 0)
        return retry + 1
    if attempts is None:
        return _ATTEMPTS
    check_at_least("--attempts", attempts, 1)
    return attempts


def _judge(
    fail_if: list[str] | None,
    retry_on: str | None,
    safe_methods_only: bool,
    reads_json: bool,
    credentials: Credentials,
) -> Judge:
    try:
        conditions = tuple(map(FailIf.parse, fail_if or ()))
    except ValueError as error:
        refuse(f"--fail-if {error}")
    accept = next((text for n, text in credentials.headers.items() if n.lower() == "accept"), None)
    return Judge(
        conditions,
        read_statuses("--retry-on", retry_on),
        safe_methods_only,
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
