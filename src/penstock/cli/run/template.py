"""A request with gaps, which the fields of each record fill: ``{"path": "/items/{sku}"}``.

``{name}`` in a string stands for a field, as text, ``{user.name}`` for one inside of another,
``{*:json}`` for the whole record, and ``{line}`` for its number. In ``path`` and ``url`` it is
percent-encoded, unless it is all that there is, or says ``{name:raw}``; and it must not be empty.
``{name:number}`` and ``{name:json}``, alone in their string, become a number, or whatever JSON the
field has. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote as percent_encoded

from penstock.cli.problems import MalformedLineError, kind, listed, quote
from penstock.cli.run.requests import check_keys

Fields: TypeAlias = "dict[str, Any]"

#: The name of the whole record; and the key of its number, which no record has.
_ALL, _LINE = "*", "\0line"
_MISSING: Any = object()

_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_BRACES = {"{{": "{", "}}": "}"}
#: What can stand after the name, and whether it has to be alone in its string.
_KINDS = {"number": True, "json": True, "raw": False}
#: Where a value must not change what the text around it means.
_ENCODED = ("path", "url")


@dataclass(frozen=True)
class _Gap:
    name: str
    kind: str

    def text(self, fields: Fields) -> str:
        value = self._value(fields)
        return value if isinstance(value, str) else json.dumps(value)

    def value(self, fields: Fields) -> Any:
        """The value of a gap that is alone in its string."""
        value = self._value(fields)
        if self.kind not in ("number", "json"):
            return self.text(fields)
        if isinstance(value, str):
            value = self._parsed(value)
        if self.kind == "number" and (
            isinstance(value, bool) or not isinstance(value, (int, float))
        ):
            raise MalformedLineError(f"{quote(self.name)} must be a number, got {kind(value)}")
        return value

    def is_null(self, fields: Fields) -> bool:
        """Whether the field is there, and null."""
        return self._value(fields) is None

    def _value(self, fields: Fields) -> Any:
        if self.name in fields:
            return fields[self.name]
        if self.name == _ALL:
            return {name: value for name, value in fields.items() if name != _LINE}
        value = fields.get(_LINE) if self.name == "line" else _MISSING
        if value is _MISSING and "." in self.name:
            value = _inner(fields, self.name.split("."))
        if value is _MISSING:
            raise MalformedLineError(f"has no {quote(self.name)}, which the template needs")
        return value

    def _parsed(self, text: str) -> Any:
        try:
            value = json.loads(text)
        except (RecursionError, ValueError):
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            wanted = "a number" if self.kind == "number" else "JSON"
            raise MalformedLineError(f"{quote(self.name)} must be {wanted}, got other text")
        return value


def _inner(value: Any, path: list[str]) -> Any:
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _MISSING
    return value


class Template:
    """Makes the fields of a request from those of a record.

    Args:
        request: a JSON object, as a line of requests would be.

    Raises:
        ValueError: it is no such object.
    """

    def __init__(self, request: Any) -> None:
        if not isinstance(request, dict):
            raise ValueError(f"must be a JSON object, got {kind(request)}")
        try:
            check_keys(request)
        except MalformedLineError as error:
            raise ValueError(str(error)) from None
        if ("path" in request) == ("url" in request):
            raise ValueError("must have either path or url")
        self._names: dict[str, None] = {}
        self._where = "path" if "path" in request else "URL"
        try:
            self._fill = {
                name: self._compiled(value, is_encoded=name in _ENCODED)
                for name, value in request.items()
            }
        except RecursionError:
            raise ValueError("must not be nested so deeply") from None
        #: Whether the requests need a base to append their path to.
        self.has_path = "path" in request

    def check_columns(self, columns: list[str]) -> None:
        """Refuse columns that do not have all that is asked for.

        Raises:
            ValueError: the message names what is missing, and what there is.
        """
        for name in self._names:
            if name not in columns and name not in (_ALL, "line"):
                raise ValueError(f"there is no column {quote(name)}; there are {listed(columns)}")

    def fill(self, fields: Fields, line: int = 0) -> Fields:
        """Make a request of the record in ``line``.

        Raises:
            MalformedLineError: a field is missing, or is not what it has to be.
        """
        fields = {**fields, _LINE: line}
        try:
            return {name: fill(fields) for name, fill in self._fill.items()}
        except RecursionError:
            raise MalformedLineError("is nested too deeply for the template") from None

    def _compiled(self, value: Any, *, is_encoded: bool = False) -> Callable[[Fields], Any]:
        if isinstance(value, str):
            return self._compiled_text(value, is_encoded)
        if isinstance(value, list):
            items = [self._compiled(item) for item in value]
            return lambda fields: [item(fields) for item in items]
        if isinstance(value, dict):
            members = {name: self._compiled(member) for name, member in value.items()}
            return lambda fields: {name: member(fields) for name, member in members.items()}
        return lambda fields: value

    def _compiled_text(self, text: str, is_encoded: bool) -> Callable[[Fields], Any]:
        parts = list(_parts(text))
        gaps = [part for part in parts if isinstance(part, _Gap)]
        self._names.update(dict.fromkeys(gap.name for gap in gaps))
        if len(parts) == 1 and gaps and not is_encoded:
            return gaps[0].value
        for gap in gaps:
            if _KINDS.get(gap.kind):
                raise ValueError(
                    f"{{{gap.name}:{gap.kind}}} must be alone in its string, as in "
                    f'"{{{gap.name}:{gap.kind}}}"'
                )

        is_alone = len(parts) == 1

        def put_in(gap: _Gap, fields: Fields) -> str:
            value = gap.text(fields)
            if is_encoded and (not value.strip() or gap.is_null(fields)):
                raise MalformedLineError(
                    f"{quote(gap.name)} is empty, and the {self._where} would be that of "
                    "something else"
                )
            if is_alone:
                return value
            return percent_encoded(value, safe="") if is_encoded and gap.kind != "raw" else value

        def fill(fields: Fields) -> str:
            return "".join(
                part if isinstance(part, str) else put_in(part, fields) for part in parts
            )

        if not is_encoded:
            return fill
        own_steps = _steps("".join(part if isinstance(part, str) else "x" for part in parts))

        def fill_path(fields: Fields) -> str:
            path = fill(fields)
            if (
                not is_alone
                and _steps(path) != own_steps
                and not any(gap.kind == "raw" for gap in gaps)
            ):
                raise MalformedLineError(
                    f"a part of the path must not be '.' or '..', got the path {quote(path)}"
                )
            return path

        return fill_path


def _steps(path: str) -> int:
    """How many parts of a path lead elsewhere than down."""
    return sum(part in (".", "..") for part in re.split("[/?#]", path))


def _parts(text: str) -> Iterator[str | _Gap]:
    literal, end = "", 0
    for found in _PART.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        name = found[1]
        if name is None:
            if found[0] not in _BRACES:
                raise ValueError(
                    f"there is a single {found[0]!r} in {quote(text)}: write a name between "
                    "two braces, and {{ or }} for a brace"
                )
            literal += _BRACES[found[0]]
            continue
        if literal:
            yield literal
            literal = ""
        before, colon, suffix = name.rpartition(":")
        yield _Gap(before, suffix) if colon and suffix in _KINDS else _Gap(name, "")
    if literal + text[end:]:
        yield literal + text[end:]
