"""The options of ``penstock run``, as its help shows them: what they do, units, defaults."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.options import option, read_config
from penstock.cli.run.input_format import InputKind

OUTPUT = "Run (penstock run FILE --config run.toml --report report.html)"
INPUT = """Requests (--url https://api.example.com --template '{"path": "/items/{sku}"}')"""
RESULTS = "Results (--out results.jsonl --failures failures.jsonl --retry-failed)"
SUCCESS = "What is a success (--fail-if error --fail-if ok=false --retry-on 409)"
PACE = "Pace (--rate 500/min --rate 20/s --concurrency auto:50)"
STOPS = "Retries and stops (--attempts 5 --timeout 60 --max-tokens 2000000)"
SERVICE = "Service (--bearer-env SERVICE_TOKEN --header 'Accept: text/csv')"


File = Annotated[str, typer.Argument(metavar="FILE", hidden=True)]

Config = Annotated[
    str | None,
    option(
        *(OUTPUT, "--config", "FILE", 'Take options from a TOML file (rate = "500/min").'),
        callback=read_config,
        is_eager=True,
    ),
]
DryRun = Annotated[
    bool, option(OUTPUT, "--dry-run", " ", "Show the first requests and send nothing.")
]
Quiet = Annotated[bool, option(OUTPUT, "--quiet", " ", "Show neither progress nor summary.")]
AsJson = Annotated[
    bool, option(OUTPUT, "--json", " ", "Write the summary as one line of JSON, no progress.")
]
Report = Annotated[
    str | None,
    option(OUTPUT, "--report", "PAGE", "Write a report as an HTML page (extra report)."),
]
Otlp = Annotated[
    str | None,
    option(OUTPUT, "--otlp", "ENDPOINT", "Send traces and metrics to a collector (extra otel)."),
]
ServiceName = Annotated[
    str | None,
    option(OUTPUT, "--service-name", "NAME", "Name of the run in traces (penstock-run)."),
]

Url = Annotated[
    str | None, option(INPUT, "--url", "URL", "Base URL that each path is appended to.")
]
TemplateText = Annotated[
    str | None,
    option(INPUT, "--template", "FILE|JSON", "Make a request from each row: JSON with {column}."),
]
Kind = Annotated[
    InputKind,
    option(
        *(INPUT, "--input-format", "KIND"),
        "Format of FILE, if it is not detected: jsonl, json, csv, tsv or urls.",
    ),
]
Delimiter = Annotated[
    str | None,
    option(INPUT, "--delimiter", "CHAR", "Character between columns (detected: , ; | or tab)."),
]
Encoding = Annotated[
    str | None, option(INPUT, "--encoding", "NAME", "Encoding of FILE: cp1252, utf-16 (utf-8).")
]

Out = Annotated[
    str | None,
    option(RESULTS, "--out", "FILE", "Write answers to FILE, and continue it; - is stdout."),
]
Failures = Annotated[
    str | None, option(RESULTS, "--failures", "FILE", "Write failures to FILE as well.")
]
KeepHeaders = Annotated[
    str | None,
    option(RESULTS, "--keep-headers", "NAME,...", "Keep these headers of answers (x-request-id)."),
]
SaveBodies = Annotated[
    str | None,
    option(RESULTS, "--save-bodies", "DIR", "Write bodies that are not text to files in DIR."),
]
RetryFailed = Annotated[
    bool,
    option(RESULTS, "--retry-failed", " ", "Send the requests again that failed in earlier runs."),
]
SendChanged = Annotated[
    bool,
    option(RESULTS, "--send-changed", " ", "Send requests again that have changed since."),
]
KeepChanged = Annotated[
    bool,
    option(RESULTS, "--keep-changed", " ", "Keep the answers to requests that have changed since."),
]
Overwrite = Annotated[
    bool, option(RESULTS, "--overwrite", " ", "Delete the earlier results and start again.")
]

FailIf = Annotated[
    list[str] | None,
    option(
        SUCCESS, "--fail-if", "PATH[=VALUE]", "A 2xx answer with this in its JSON is a failure."
    ),
]
RetryOn = Annotated[
    str | None,
    option(SUCCESS, "--retry-on", "STATUS,...", "Retry after these statuses too."),
]
SafeMethodsOnly = Annotated[
    bool,
    option(
        *(SUCCESS, "--safe-methods-only", " "),
        "Do not resend a POST or PATCH that may have had an effect.",
    ),
]

Rate = Annotated[
    list[str] | None,
    option(PACE, "--rate", "N/TIME", "Requests at most; give several, and all apply."),
]
Tokens = Annotated[
    str | None, option(PACE, "--tokens", "N/TIME", "Tokens at most, as in 90000/min.")
]
Cost = Annotated[
    str | None,
    option(PACE, "--cost", "PATH[+PATH]", "Where answers have their tokens (detected)."),
]
Concurrency = Annotated[
    str,
    option(PACE, "--concurrency", "N|auto", "Requests at once (10); auto adapts it, up to 100."),
]
Capacity = Annotated[
    int,
    option(
        PACE, "--capacity", "N", "Requests that wait in memory at most (100).", alias="--maxsize"
    ),
]
NoFeedback = Annotated[
    bool, option(PACE, "--no-feedback", " ", "Ignore the rate-limit headers of answers.")
]

Attempts = Annotated[
    int | None, option(STOPS, "--attempts", "N", "Attempts for each request at most (5).")
]
Retry = Annotated[
    int | None, option(STOPS, "--retry", "N", "N more attempts after the first.", hidden=True)
]
Timeout = Annotated[
    float, option(STOPS, "--timeout", "SECONDS", "Time for each attempt (600; 10 to connect).")
]
Deadline = Annotated[
    float | None,
    option(STOPS, "--deadline", "SECONDS", "Time for each request, waits included (none)."),
]
GiveUpAfter = Annotated[
    float,
    option(
        *(STOPS, "--give-up-after", "SECONDS"),
        "Time to wait for a service that is down (3600), then stop.",
    ),
]
MaxRequests = Annotated[
    int | None,
    option(STOPS, "--max-requests", "N", "Stop after N attempts, those of earlier runs included."),
]
MaxTokens = Annotated[
    int | None,
    option(STOPS, "--max-tokens", "N", "Stop after N tokens, those of earlier runs included."),
]
KeepGoing = Annotated[
    bool,
    option(STOPS, "--keep-going", " ", "Do not stop after a 401, used-up credit or no answers."),
]

BearerEnv = Annotated[
    str | None,
    option(SERVICE, "--bearer-env", "NAME", "Environment variable that has the bearer token."),
]
BearerCommand = Annotated[
    str | None,
    option(SERVICE, "--bearer-command", "CMD", "Command that prints the token; again after a 401."),
]
Header = Annotated[
    list[str] | None, option(SERVICE, "--header", "'NAME: VALUE'", "Header of each request.")
]
HeaderEnv = Annotated[
    list[str] | None,
    option(
        SERVICE, "--header-env", "NAME=VAR", "Header whose value is in an environment variable."
    ),
]
ParamEnv = Annotated[
    list[str] | None,
    option(SERVICE, "--param-env", "NAME=VAR", "Query parameter from an environment variable."),
]
CaCert = Annotated[
    str | None, option(SERVICE, "--cacert", "FILE", "Trust these certificates (PEM), no others.")
]
Cert = Annotated[
    str | None, option(SERVICE, "--cert", "FILE", "Client certificate and its key (PEM).")
]
Insecure = Annotated[
    bool,
    option(SERVICE, "--insecure", " ", "Trust any certificate: attackers can read everything."),
]
