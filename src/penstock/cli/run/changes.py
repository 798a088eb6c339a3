"""Requests that ask for something else than an earlier run did under the same id."""

from __future__ import annotations

from penstock.cli.input_file import InputFile
from penstock.cli.run.ids import key
from penstock.cli.run.input_format import InputFormat
from penstock.cli.run.journal import PreviousRuns
from penstock.cli.run.source import Malformed, read_now

#: So many are sent again without a question, or this share of the answers if that is more.
_FEW, _SHARE = 10, 0.01


class Changes:
    """Counts them."""

    def __init__(self, earlier: PreviousRuns) -> None:
        self._earlier = earlier
        self._answered = len(earlier.succeeded) + len(earlier.failed)
        self._changed = self._elsewhere = 0

    def note(self, which: int, asked: str) -> None:
        """The id with the key ``which`` asks for something else now."""
        self._changed += 1
        self._elsewhere += self._earlier.is_elsewhere(which, asked)

    @property
    def are_many(self) -> bool:
        """Whether there are so many that it may be a mistake."""
        return self._changed > max(_FEW, _SHARE * self._answered)

    @property
    def question(self) -> str:
        """What to say then."""
        what = (
            "have another base URL than before (--url)"
            if self._elsewhere == self._changed
            else "differ from the earlier run (another body, template or URL)"
        )
        return (
            f"{self._changed} of the {self._answered} requests that have a result {what}. "
            "Give --send-changed to send them again, --keep-changed to keep their answers, or "
            "another --out"
        )


def look_for_changes(file: InputFile, form: InputFormat, earlier: PreviousRuns) -> str | None:
    """What to ask before anything is sent, if many requests have changed; None: go on.

    Of what cannot be read twice, such as a pipe, nothing is known yet.

    Raises:
        OSError: the file cannot be read.
    """
    if not earlier.asked or not file.can_rewind:
        return None
    changes = Changes(earlier)
    for made in read_now(file.reader, form):
        if not isinstance(made, Malformed):
            which = key(made.id)
            if earlier.has(which) and earlier.is_changed(which, made.asked):
                changes.note(which, made.asked)
    file.rewind()
    return changes.question if changes.are_many else None
