"""``penstock run``: its options, and its help."""

from __future__ import annotations

from penstock.cli.options import flowing
from penstock.cli.run import flags
from penstock.cli.run.input_format import InputKind
from penstock.cli.run.start import Given, start

HELP = flowing(
    """
\b
  penstock run requests.jsonl --url https://api.example.com --out out.jsonl
  penstock run items.csv --template '{"path": "/items/{sku}"}' --url ...
  penstock run prompts.jsonl --rate 500/min --bearer-env TOKEN --url ...

Send the HTTP requests in FILE under a service's limits, and write the answers to another file.
Run the same command again, and it continues where it stopped.

FILE (- is standard input) has one request per line: {"path": "/items/7"}, or {"url": "https://..."}.
A request may also have id, method, params, headers, and a body as json, form, text, body_base64 or
multipart. Tables, JSON arrays, lists of URLs and batch files are read too, also in gzip.
"""
)

EPILOG = flowing(
    """
Exit codes: 0 all succeeded; 1 some failed; 2 wrong usage, nothing was sent; stopped by 3 a 401 or
used-up credit, 4 no answers at all, 5 a file, 6 a budget, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""
)


def run(
    file: flags.File,
    config: flags.Config = None,
    quiet: flags.Quiet = False,
    json: flags.AsJson = False,
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
    timeout: flags.Timeout = 600.0,
    deadline: flags.Deadline = None,
    give_up_after: flags.GiveUpAfter = 3600.0,
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
    return start(Given(**locals()))
