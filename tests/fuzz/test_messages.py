"""Bytes from a broker: an item, or a dead letter that shows nothing of them; never an execution."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from pydantic import BaseModel

from fuzz.values import few
from penstock.brokers.codecs import JsonCodec, MsgpackCodec
from penstock.brokers.messages import CONTENT_TYPE, DEADLINE, MessageCodec
from penstock.brokers.nats.queue.consumer import delivery_of
from penstock.errors import CodecError
from penstock.policies.item_state import PolicyScope
from penstock.policies.policy import Policy
from penstock.telemetry import Telemetry

REPLY = "$JS.ACK.q.c.1.5.5.1700000000000000000.0"


class Call(BaseModel):
    path: str
    count: int


CODECS: list[Callable[[], Any]] = [
    JsonCodec,
    MsgpackCodec,
    lambda: JsonCodec(Call),
    lambda: MsgpackCodec(Call),
    lambda: JsonCodec(dict[str, list[int]]),
    lambda: MsgpackCodec(dict[str, list[int]]),
]


class Touched:
    """Leaves a trace when it is unpickled."""

    seen: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return (Touched.seen.append, (1,))


HOSTILE = [
    *(
        b"",
        b"\0",
        b"\xff" * 100,
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"' + b"\\" * 99,
        b"1" * 5_000,
    ),
    *(
        b"NaN",
        b"1e999",
        b"-Infinity",
        b'{"a": 1, "a": 2}',
        '"\ud800"'.encode("utf-8", "surrogatepass"),
    ),
    *(b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xd4\x2a\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x0c\xff" + b"\xff" * 12,
    ),
    *(b"\x81\x90\x01", b"\x82\xa1a\x01\xa1a\x02", b"\xc1", b"\xa1\xff", pickle.dumps(Touched())),
]
data_of_any_kind = st.one_of(
    st.sampled_from(HOSTILE),
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.text(), st.binary(), st.floats()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=10,
    ).map(msgpack.packb),
)


@pytest.mark.parametrize("make", CODECS, ids=[str(number) for number in range(len(CODECS))])
@few
@given(data=data_of_any_kind)
def test_any_bytes_are_an_item_or_a_codec_error(make: Callable[[], Any], data: bytes) -> None:
    try:
        make().decode(data)
    except CodecError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1_000
    assert not Touched.seen


@pytest.mark.parametrize("make", CODECS[2:], ids=["json", "msgpack", "json-dict", "msgpack-dict"])
def test_no_traceback_shows_what_was_in_a_message(make: Callable[[], Any]) -> None:
    for secret in (b'{"path": "x", "count": "hunter22"}', b'"hunter22"', b"hunter22"):
        for data in (secret, msgpack.packb({"path": "x", "count": "hunter22"})):
            with pytest.raises(CodecError) as caught:
                make().decode(data)
            assert "hunter22" not in "".join(traceback.format_exception(caught.value))


@few
@given(
    data=data_of_any_kind,
    headers=st.dictionaries(
        st.one_of(
            st.sampled_from(
                [CONTENT_TYPE, DEADLINE, "traceparent", "tracestate", "baggage", "Nats-Msg-Id"]
            ),
            st.text(max_size=10),
        ),
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(
                [
                    *("application/json", "nan", "inf", "-1", "1e400", "9" * 400, "a=b;c,%ff=%"),
                    *(
                        "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
                        "00-" + "0" * 32 + "--ff",
                        "=" * 60,
                    ),
                ]
            ),
        ),
    ),
    number=st.integers(0, 30),
)
def test_any_message_is_an_entry_for_a_worker_or_an_error(
    data: bytes, headers: dict[str, str], number: int
) -> None:
    codec: MessageCodec[Any] = MessageCodec(JsonCodec(), None, 20)
    reply = REPLY.replace("c.1.", f"c.{number}.")
    delivery = delivery_of(Msg(None, "q", reply, data, headers))  # type: ignore[arg-type]
    observer = Telemetry(spans="none").get_observer("q")
    scope = PolicyScope(Policy(), observer, max_dead_letters=0, postpones=True)
    try:
        codec.unpack(delivery, scope, observer)
    except Exception as error:
        assert number <= 20 or "delivered 20 times" in str(error)
    else:
        assert number <= 20
