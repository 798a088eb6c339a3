"""What would be sent: the first requests, with nothing in them that is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.cli.input_file import InputFile
from penstock.cli.run.credentials import HIDDEN, Credentials
from penstock.cli.run.input_format import InputFormat
from penstock.cli.run.requests import Request
from penstock.cli.run.source import Malformed, read_now

_MOST = 3
#: Characters of a body that are shown.
_LONGEST_BODY = 1000
#: Headers that we make, and that hold nothing secret.
_OURS = ("content-type", "x-request-id")


#: A user and password in a URL.
_USER = re.compile(r"(?<=://)[^/?#]*@")


def preview(file: InputFile, form: InputFormat, credentials: Credentials) -> str:
    """Describe the first requests of an input.

    Raises:
        OSError: it cannot be read.
    """
    shown: list[str] = []
    for made in read_now(file.reader, form):
        if isinstance(made, Malformed):
            shown.append(f"line {made.line}: {made.problem}")
        else:
            lines = _described(made, credentials)
            shown.append("\n".join(credentials.redacted(line) for line in lines))
        if len(shown) == _MOST:
            break
    return "\n\n".join(shown) or "no requests"


def _described(request: Request, credentials: Credentials) -> Iterator[str]:
    yield f"line {request.line}, id {ascii(request.id)[:80]}"
    yield f"{request.method} {_USER.sub(f'{HIDDEN}@', request.url)}"
    for name, value in request.headers.items():
        yield f"{name}: {value if name.lower() in _OURS else HIDDEN}"
    for name in credentials.params:
        yield f"{name}={HIDDEN} in the query"
    for name in credentials.given_to(request):
        yield f"{name}: {HIDDEN}"
    if request.content is not None:
        body = request.content.decode("utf-8", "backslashreplace")
        yield body if len(body) <= _LONGEST_BODY else f"{body[:_LONGEST_BODY]}..."
    elif request.multipart is not None:
        for part in request.multipart.parts:
            value = part.value if part.path is None else f"the file {part.path.name}"
            yield f"  {part.name}: {value[:_LONGEST_BODY]}"
