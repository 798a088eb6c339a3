"""Is the input what the command takes it for? If its first records are no requests, it is not."""

from __future__ import annotations

from penstock.cli.input_file import InputFile
from penstock.cli.run.input_format import InputFormat, guess
from penstock.cli.run.source import Malformed, read_now

#: So many records that are no requests, and none that is one, stand for all.
MOST = 20


def explain(name: str, head: bytes, count: int, first: Malformed) -> str:
    """What to say of an input without a request among its first ``count`` records."""
    which = "The only record" if count == 1 else f"None of the first {count} records"
    is_none = "is not a request" if count == 1 else "is a request"
    hint = guess(head, first.problem)
    said = f"{which} of {name} {is_none}; line {first.line}: {first.problem}"
    return f"{said.rstrip('.')}. {hint}".strip()


def look_ahead(name: str, file: InputFile, form: InputFormat) -> str | None:
    """What is wrong with an input that has no request among its first records; None: go on.

    Of what cannot be read twice, such as a pipe, nothing is known yet.

    Raises:
        OSError: it cannot be read.
    """
    if not file.can_rewind:
        return None
    count, first = 0, None
    for made in read_now(file.reader, form):
        if not isinstance(made, Malformed):
            first = None
            break
        count, first = count + 1, first or made
        if count == MOST:
            break
    file.rewind()
    return None if first is None else explain(name, file.head, count, first)
