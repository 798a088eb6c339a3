"""What errors of mail servers say: SMTP's codes mean "later" from 400 on, "never" from 500 on."""

from __future__ import annotations

import smtplib

import pytest

from penstock.limits.failures import failure_of, is_throttle, shows_outage, worth_retrying


class SMTPException(Exception):  # noqa: N818 - named as in aiosmtplib, which is not installed here
    pass


class SMTPResponseException(SMTPException):
    """Like that of aiosmtplib."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class SMTPRecipientsRefused(SMTPException):
    """Like that of aiosmtplib."""

    def __init__(self, recipients: list[SMTPResponseException]) -> None:
        super().__init__(recipients)
        self.recipients = recipients


def refused(*codes: int) -> list[Exception]:
    """The errors of both clients when each recipient was refused with one of ``codes``."""
    by_address = {f"{code}@example.org": (code, b"5.1.1 no such user") for code in codes}
    in_list = [SMTPResponseException(code, "5.1.1 no such user") for code in codes]
    return [smtplib.SMTPRecipientsRefused(by_address), SMTPRecipientsRefused(in_list)]


def answered(code: int, text: str) -> list[Exception]:
    """The errors of both clients when the server answered so."""
    return [
        smtplib.SMTPResponseException(code, text.encode()),
        smtplib.SMTPSenderRefused(code, text.encode(), "me@example.org"),
        SMTPResponseException(code, text),
    ]


@pytest.mark.parametrize(
    "error", [*answered(550, "no such user"), *refused(550), *refused(550, 553)]
)
def test_what_the_server_never_takes_is_not_sent_again(error: Exception) -> None:
    assert not worth_retrying(error)
    assert failure_of(error).status is None  # it is no HTTP status


@pytest.mark.parametrize("error", [*answered(450, "greylisted"), *refused(450), *refused(450, 550)])
def test_what_it_may_take_later_is_sent_again(error: Exception) -> None:
    assert worth_retrying(error)
    assert not is_throttle(error)
    assert shows_outage(failure_of(error)) is None  # the server is there


@pytest.mark.parametrize(
    "text",
    ["4.7.0 Too many messages", "Throttling failure: Maximum sending rate exceeded", "over RATE"],
)
def test_too_many_mails_is_a_throttle(text: str) -> None:
    for error in answered(454, text):
        assert is_throttle(error)
        assert worth_retrying(error)


@pytest.mark.parametrize("text", ["4.5.3 too many recipients", "a separate matter"])
def test_other_words_are_none(text: str) -> None:
    assert not any(is_throttle(error) for error in answered(452, text))


@pytest.mark.parametrize(
    "error",
    [
        *answered(421, "closing transmission channel"),
        smtplib.SMTPServerDisconnected("Connection unexpectedly closed"),
    ],
)
def test_a_server_that_goes_away_is_an_outage(error: Exception) -> None:
    assert shows_outage(failure_of(error)) is True


@pytest.mark.parametrize("error", [smtplib.SMTPException("odd"), SMTPResponseException(0, "odd")])
def test_without_an_answer_nobody_knows(error: Exception) -> None:
    failure = failure_of(error)
    assert (failure.is_transient, failure.is_permanent) == (False, False)
