"""What a run is to do, and what can keep it from its end."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from penstock.cli.input_file import InputFile
from penstock.cli.run.answers import AnswerJudge
from penstock.cli.run.client import AiohttpClient
from penstock.cli.run.credentials import Credentials
from penstock.cli.run.input_format import InputFormat
from penstock.cli.run.journal import Results
from penstock.cli.run.tokens import Cost
from penstock.errors import PenstockError

#: Exit codes of a run that stopped before its end.
REFUSED, UNREACHABLE, FILE_TROUBLE, BUDGET_SPENT = 3, 4, 5, 6
#: Of one that has not begun, since it makes no sense.
WRONG_INPUT = 2


class RunError(PenstockError):
    """The run cannot go on; the message says why, and ``code`` is the exit code."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


@dataclass(frozen=True)
class RunJob:
    """What is to be done."""

    #: The input: what it is called, the file, and what it is written in.
    name: str
    requests: InputFile
    form: InputFormat
    results: Results
    client: AiohttpClient
    credentials: Credentials
    concurrency: int
    capacity: int
    attempts: int
    #: Seconds for each attempt, and for each request from its reading to its end.
    timeout: float
    deadline: float | None = None
    #: Where failures go as well.
    failures: io.FileIO | None = None
    #: What counts as a success.
    judge: AnswerJudge = field(default_factory=AnswerJudge)
    #: Headers of answers that go into the results.
    keep_headers: tuple[str, ...] = ()
    #: Where bodies go that are no text; None: into the results.
    save_bodies: Path | None = None
    #: Somebody collects traces.
    is_traced: bool = False
    #: So many requests, each in so many seconds; and so many tokens.
    rates: tuple[tuple[float, float], ...] = ()
    tokens: tuple[float, float] | None = None
    #: Where an answer says how many tokens it was; None: nobody asks.
    cost: Cost | None = None
    #: So many attempts, and so many tokens, in this run and the earlier ones.
    max_requests: int | None = None
    max_tokens: float | None = None
    #: Find out how many requests run at once, up to ``concurrency``.
    is_adaptive: bool = False
    #: Look at what the headers of answers say about limits.
    feedback: bool = True
    #: Seconds that the service may be away, once it has answered.
    give_up_after: float = math.inf
    #: Send those again that failed in an earlier run.
    retry_failed: bool = False
    #: Send those again that an earlier run sent otherwise; or keep their answers. None: few are
    #: sent again, and many are asked about.
    send_changed: bool | None = None
    #: Stop for nothing that a service answers, or does not.
    keep_going: bool = False
