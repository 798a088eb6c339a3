"""What an item is as bytes, what comes back of them, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from penstock.brokers.codecs import Codec, JsonCodec, MsgpackCodec
from penstock.errors import CodecError, QueueError

# What each format has, by itself.
scalars = st.none() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"]))
json_items = st.recursive(
    scalars | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_é\x00"), inner),
    max_leaves=20,
)
msgpack_scalars = (
    scalars | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.binary()
)
msgpack_items = st.recursive(
    msgpack_scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc") | st.integers(0, 9), inner),
    max_leaves=20,
)


class Call(BaseModel):
    url: str
    tries: int = 3
    at: datetime | None = None


@dataclass
class Point:
    x: float
    y: float


def kinds(value: Any) -> Any:
    """A value with the types in it, for 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {key: kinds(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [kinds(inner) for inner in value]
    return (type(value), repr(value))


def both(item_type: Any = None) -> list[Any]:
    arguments = () if item_type is None else (item_type,)
    return [JsonCodec(*arguments), MsgpackCodec(*arguments)]


@given(json_items)
def test_json_comes_back_as_it_was(item: Any) -> None:
    codec = JsonCodec()
    assert kinds(codec.decode(codec.encode(item))) == kinds(item)


@given(json_items)
def test_json_is_what_anybody_reads(item: Any) -> None:
    assert kinds(json.loads(JsonCodec().encode(item))) == kinds(item)


@given(msgpack_items)
def test_msgpack_comes_back_as_it_was(item: Any) -> None:
    codec = MsgpackCodec()
    assert kinds(codec.decode(codec.encode(item))) == kinds(item)


@given(st.binary())
def test_whatever_bytes_come_it_is_an_item_or_a_codec_error(data: bytes) -> None:
    for codec in (*both(), *both(Call)):
        with suppress(CodecError):
            codec.decode(data)


@given(st.builds(Call, url=st.text("abc/:"), tries=st.integers(0, 99),
                 at=st.none() | st.datetimes(timezones=st.just(timezone.utc))))  # fmt: skip
def test_a_model_comes_back_as_the_model(call: Call) -> None:
    for codec in both(Call):
        back = codec.decode(codec.encode(call))
        assert type(back) is Call
        assert back == call


@pytest.mark.parametrize("codec", both(Point))
def test_a_dataclass_comes_back_as_the_dataclass(codec: Codec[Point]) -> None:
    assert codec.decode(codec.encode(Point(1.5, -2.0))) == Point(1.5, -2.0)


@pytest.mark.parametrize("make", [JsonCodec, MsgpackCodec])
def test_a_type_adapter_says_what_the_items_are(make: Callable[..., Codec[Any]]) -> None:
    codec = make(TypeAdapter(list[tuple[int, Decimal]]))
    item = [(1, Decimal("0.10")), (2, Decimal(7))]
    assert codec.decode(codec.encode(item)) == item


SECRET = "hunter2"


class Opaque:
    def __repr__(self) -> str:
        return SECRET


@pytest.mark.parametrize(
    "item",
    [
        (1, 2),
        {"a": (SECRET,)},
        {1: SECRET},
        {None: SECRET},
        {True: SECRET},
        math.nan,
        {SECRET: math.inf},
        -math.inf,
        b"hunter2",
        [bytearray(b"hunter2")],
        {SECRET},
        Opaque(),
        Decimal("1.5"),
        "\ud800hunter2",
        1j,
        Call(url=SECRET),
    ],
    ids=repr,
)
def test_json_refuses_what_would_come_back_as_something_else(item: Any) -> None:
    with pytest.raises(CodecError, match="cannot be encoded as application/json") as caught:
        JsonCodec().encode(item)
    assert type(item).__name__ in str(caught.value)
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, QueueError)


@pytest.mark.parametrize(
    "item",
    [(1, 2), [(SECRET,)], {SECRET}, Opaque(), 2**64, Decimal("1.5"), 1j, "\ud800hunter2"],
    ids=repr,
)
def test_msgpack_refuses_what_would_come_back_as_something_else(item: Any) -> None:
    with pytest.raises(CodecError, match="cannot be encoded as application/msgpack") as caught:
        MsgpackCodec().encode(item)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("codec", both())
def test_what_contains_itself_is_refused(codec: Codec[Any]) -> None:
    item: list[Any] = []
    item.append(item)
    with pytest.raises(CodecError):
        codec.encode(item)


@pytest.mark.parametrize("codec", both(Call))
@pytest.mark.parametrize(
    ("item", "place"),
    [({"url": "x", "tries": SECRET}, "tries"), ({"tries": 1, "note": SECRET}, "url")],
)
def test_an_item_of_another_type_is_refused_at_its_put(
    codec: Codec[Any], item: Any, place: str
) -> None:
    with pytest.raises(CodecError, match=place) as caught:
        codec.encode(item)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("codec", both(Call))
def test_what_was_put_by_another_version_is_named_by_its_place(codec: Codec[Any]) -> None:
    other: Any = type(codec)()
    with pytest.raises(CodecError, match=r"tries: .*integer") as caught:
        codec.decode(other.encode({"url": "x", "tries": SECRET}))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": hunter2}', b"\xff\xfe", b'"hunter2', b"[" * 100_000, b"1 2"]
)
def test_bytes_that_are_no_json(data: bytes) -> None:
    with pytest.raises(
        CodecError, match=f"{len(data)} bytes cannot be decoded as application/json"
    ) as e:
        JsonCodec().decode(data)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\x91" * 100_000])
def test_bytes_that_are_no_msgpack(data: bytes) -> None:
    with pytest.raises(
        CodecError, match=f"{len(data)} bytes cannot be decoded as application/msgpack"
    ):
        MsgpackCodec().decode(data)


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"[-Infinity]"])
def test_json_that_is_none_by_the_standard_is_no_item(word: bytes) -> None:
    with pytest.raises(CodecError):
        JsonCodec().decode(word)


def test_the_content_types() -> None:
    assert [codec.content_type for codec in both()] == ["application/json", "application/msgpack"]


def test_a_codec_shows_what_it_is_for() -> None:
    assert repr(JsonCodec()) == "JsonCodec()"
    assert "Call" in repr(MsgpackCodec(Call))


def test_msgpack_is_an_extra() -> None:
    program = (
        "import sys; sys.modules['msgpack'] = None\n"
        "from penstock.brokers.codecs import JsonCodec, MsgpackCodec\n"
        "JsonCodec()\n"
        "try: MsgpackCodec()\n"
        "except ImportError as error: print(error)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                             check=True, timeout=60)  # fmt: skip
    assert outcome.stdout == (
        "MsgpackCodec needs the extra msgpack: pip install 'penstock[msgpack]'\n"
    )
