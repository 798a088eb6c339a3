"""What a mail server answered, by an error of smtplib or aiosmtplib: SMTP's codes are not HTTP's.

A code from 400 on says "later", one from 500 on "never" (RFC 5321, 4.2.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.limits.error_response import attribute
from penstock.limits.refusals import Failure

#: Both clients call the base of their errors so.
_BASE = "SMTPException"
#: The server closes the connection: it is shut down, or too busy.
_UNAVAILABLE = 421
_TOO_MANY = re.compile(r"\btoo many(?! recipients)|\brate\b|throttl", re.IGNORECASE)


def failure_of_mail(error: BaseException) -> Failure | None:
    """What a mail server said; ``None``: the error has no answer of one.

    An answer for several recipients, all refused: the mail is tried again if one of them may be
    accepted later.
    """
    if not any(base.__name__ == _BASE for base in type(error).__mro__):
        return None
    answers = [(code, text) for code, text in _answers(error) if 400 <= code < 600]
    later = [(code, text) for code, text in answers if code < 500]
    if not later:
        return Failure(is_permanent=True) if answers else None
    is_throttle = any(_TOO_MANY.search(text) for _, text in later)
    is_away = any(code == _UNAVAILABLE for code, _ in later)
    return Failure(is_throttle=is_throttle, is_transient=is_throttle or is_away)


def _answers(error: BaseException) -> Iterator[tuple[int, str]]:
    recipients = attribute(error, "recipients")
    if isinstance(recipients, Mapping):  # smtplib: by address
        for answer in recipients.values():
            if isinstance(answer, tuple) and len(answer) == 2:
                yield from _answer(*answer)
    elif isinstance(recipients, (list, tuple)):  # aiosmtplib: an error for each
        for each in recipients:
            yield from _answer(attribute(each, "code"), attribute(each, "message"))
    yield from _answer(attribute(error, "smtp_code"), attribute(error, "smtp_error"))
    yield from _answer(attribute(error, "code"), attribute(error, "message"))


def _answer(code: Any, text: Any) -> Iterator[tuple[int, str]]:
    if isinstance(code, int):
        yield code, text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
