"""Coverage-guided fuzzing with atheris, by hand: ``python tests/fuzz/guided.py TARGET SECONDS``.

What fails is printed with its stack, and the input is kept in a file ``crash-…``.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(
    include=["penstock", "email", "csv", "json", "httpx", "msgpack", "tomllib"]
):
    import msgpack.fallback

    from penstock.brokers.codecs import JsonCodec, MsgpackCodec
    from penstock.cli.problems import MalformedLineError
    from penstock.cli.records import JsonCutter, read_header
    from penstock.cli.run.input_format import InputFormat, InputKind
    from penstock.cli.run.journal import NotAJournalError, scan
    from penstock.cli.run.requests import parse_base
    from penstock.cli.run.results import Failure, RequestResult
    from penstock.cli.run.template import Template
    from penstock.cli.settings import read_settings
    from penstock.config import parse_rate
    from penstock.errors import CodecError
    from penstock.limits.rate.headers import LONGEST_WAIT, parse

NAMES = [
    *("retry-after", "retry-after-ms", "ratelimit", "ratelimit-policy", "ratelimit-reset"),
    *("ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-remaining", "x-rate-limit-reset"),
    *("x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset", "ratelimit-limit"),
    *("x-hubspot-ratelimit-interval-milliseconds", "x-shopify-shop-api-call-limit"),
    *("x-ratelimit-remaining-tokens-month", "anthropic-ratelimit-unified-5h-status"),
]


def headers(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    pairs: list[tuple[str, bytes | str]] = []
    for _ in range(given.ConsumeIntInRange(1, 3)):
        name = given.PickValueInList(NAMES)
        pairs.append(
            (name, given.ConsumeUnicode(60) if given.ConsumeBool() else given.ConsumeBytes(60))
        )
    feedback = parse(pairs, 1.7e9)
    assert 0 <= feedback.wait <= LONGEST_WAIT


def lines(data: bytes) -> None:
    """Lines of JSON, as they come from a file."""
    _records(JsonCutter(lambda: None), InputFormat("http://h/v1").reader(), data)


def rows(data: bytes) -> None:
    """A CSV file with its header, and a template that takes the columns."""
    file = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    try:
        header = read_header(file)
    except ValueError:
        return
    columns = header.columns
    name = columns[0].replace("{", "").replace("}", "")
    try:
        template = Template({"path": f"/{{{name}}}", "json": [f"{{{name}:json}}"]})
        template.check_columns(columns)
    except ValueError:
        return
    form = InputFormat(
        *("http://h", template, InputKind.CSV),
        columns=tuple(header.columns),
        delimiter=header.delimiter,
        first_line=header.next_line,
    )
    _records(form.cutter(lambda: None), form.reader(), file.read())


def _records(cutter: Any, read: Callable[[int, bytes], dict[str, Any]], data: bytes) -> None:
    from penstock.cli.run.requests import RequestMaker

    half = len(data) // 2
    records = [*cutter.cut(data[:half]), *cutter.cut(data[half:]), *cutter.end()]
    for number, record in records:
        assert record is not None
        try:
            request = RequestMaker("http://h/v1").make(number, read(number, record))
        except MalformedLineError as error:
            str(error).encode()
            assert str(error).isprintable()
        else:
            RequestResult(request.id, number, failure=Failure("x", "y")).to_line()


def journals(data: bytes) -> None:
    file = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    try:
        earlier = scan(file, ["usage", "total_tokens"])
    except NotAJournalError:
        return
    assert 0 <= earlier.tokens < math.inf
    if earlier.torn_at is not None:
        whole = scan(io.BufferedReader(io.BytesIO(data[: earlier.torn_at])))  # type: ignore[arg-type]
        assert whole.torn_at is None
        assert whole.succeeded == earlier.succeeded


def templates(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    text, value = given.ConsumeUnicode(40), given.ConsumeUnicode(40)
    try:
        template = Template({"path": "/" + text, "params": {"q": text}, "json": {text: [text]}})
        template.fill({"a": value, text: value})
    except (ValueError, MalformedLineError):
        pass
    for call in (parse_base, parse_rate):
        try:
            call(text)
        except ValueError:
            pass


_settings = Path(tempfile.mkdtemp()) / "settings.toml"


def settings(data: bytes) -> None:
    _settings.write_bytes(data)
    try:
        read_settings(str(_settings), ["url", "rate", "header", "dry-run"], ["dry-run"], ["header"])
    except ValueError:
        pass


def messages(data: bytes) -> None:
    """Bytes from a broker, with the decoders in C and the one in Python, which can be followed."""
    for codec in (JsonCodec(), JsonCodec(dict[str, int]), MsgpackCodec(), MsgpackCodec(list[int])):
        try:
            codec.decode(data)
        except CodecError:
            pass
    slow = MsgpackCodec()
    slow._msgpack = msgpack.fallback
    try:
        msgpack.fallback.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, RecursionError):
        pass


TARGETS = {
    each.__name__: each for each in (headers, lines, rows, journals, templates, settings, messages)
}
SEEDS = {
    "headers": [b"\x01\x05Tue, 14 Nov 2023 22:14:20 GMT", b'\x03"a";r=0;t=5, "b";q=1;w=60'],
    "lines": [
        b'{"id": 1, "path": "/a?b=c", "params": {"q": [1, null]}, "json": {}}\r\n\n{"url":"http://h"}'
    ],
    "rows": [b'\xef\xbb\xbfa,b\r\n1,"x""\ny"\n', b'"a\nb"\n"1"\n'],
    "journals": [
        (
            b'{"id": "a", "line": 1, "status": 200, "body": {"usage": {"total_tokens": 5}}}\n'
            b'{"id": 2, "line": 2, "error": {"kind": "malformed", "message": "x"}}\n{"id"'
        )
    ],
    "templates": [b"{a}{{}}{b:json}x500/min http://u:p@h:1/"],
    "settings": [b'url = "x"\nheader = ["a: b"]\ndry-run = true\n[template]\npath="/"\n'],
    "messages": [
        json.dumps({"a": [1, 2.5, None]}).encode(),
        msgpack.packb({"a": [1, b"x"], 2: None}),
    ],
}


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: guided.py {'|'.join(TARGETS)} SECONDS")
    name, seconds = sys.argv[1:]
    corpus = Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=600",
        "-rss_limit_mb=2000",
        "-timeout=20",
        "-len_control=0",
    ]
    prefix = f"-artifact_prefix={os.getcwd()}/"
    atheris.Setup([sys.argv[0], *options, prefix, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
