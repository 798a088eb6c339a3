"""One key of a key-value bucket of JetStream's: read, compared and set, listened to."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from nats.js.api import Header

from penstock.brokers.nats.connection.codes import (
    NAME_IN_USE,
    NO_MESSAGE,
    NO_STREAM,
    WRONG_SEQUENCE,
)
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError, reading
from penstock.brokers.nats.limits.leases import UNITS

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STAMP = re.compile(r"(.*?)(?:\.(\d+))?Z")


class Entry(NamedTuple):
    """What a key holds."""

    #: 0: there is nothing yet.
    revision: int
    #: Empty: it was deleted.
    data: bytes
    #: When it was stored, on the server's clock, in microseconds.
    stamp: int


class Key:
    """A key in a bucket. Its methods raise what a :class:`Connection` raises, but for conflicts."""

    def __init__(
        self, connection: Connection, bucket: str, name: str, replicas: int, storage: str
    ) -> None:
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._subject = f"$KV.{bucket}.{name}"
        self._clock = f"$KV.{bucket}.clock.{name}"
        # As all clients of NATS make buckets, so that their tools can read it.
        self._config = {
            "name": self._stream,
            "subjects": [f"$KV.{bucket}.>"],
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "storage": storage,
            "num_replicas": replicas,
        }
        #: Requests made so far for reading and writing.
        self.calls = 0

    async def make_bucket(self) -> None:
        """Make the bucket, if it is not there."""
        try:
            await self._connection.api(f"STREAM.INFO.{self._stream}")
        except ApiError as error:
            if error.code != NO_STREAM:
                raise
            try:
                await self._connection.api(f"STREAM.CREATE.{self._stream}", self._config)
            except ApiError as failure:
                if failure.code != NAME_IN_USE:  # or else another machine was faster
                    raise

    async def read(self) -> Entry:
        """What it holds now."""
        return await self._last(self._subject)

    async def ask_time(self) -> int:
        """What the server's clock said at some moment of this call, in microseconds."""
        self.calls += 1
        reading(await self._connection.request(self._clock))
        # If another machine has written there since, that was within this call as well.
        return (await self._last(self._clock)).stamp

    async def _last(self, subject: str) -> Entry:
        self.calls += 1
        try:
            told = await self._connection.api(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject}
            )
        except ApiError as error:
            if error.code == NO_MESSAGE:
                return Entry(0, b"", 0)
            raise
        message: dict[str, Any] = told["message"]
        data = base64.b64decode(message.get("data") or "")
        return Entry(message["seq"], data, _micros(message["time"]))

    async def write(self, data: bytes, revision: int) -> int | None:
        """Replace that revision, and return the new one; None: it was no longer the last."""
        self.calls += 1
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        try:
            told = reading(await self._connection.request(self._subject, data, headers))
        except ApiError as error:
            if error.code in WRONG_SEQUENCE:
                return None
            raise
        new: int = told["seq"]
        return new

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """Call ``heard`` with what others write, or try to write, from now on."""

        async def receive(message: Msg) -> None:
            heard(message.data)

        await self._connection.subscribe(self._subject, receive)


def _micros(stamp: str) -> int:
    """Microseconds of a time as the server writes it: UTC, with up to nine digits of seconds."""
    match = _STAMP.fullmatch(stamp)
    assert match is not None, stamp
    whole = datetime.fromisoformat(f"{match[1]}+00:00") - _EPOCH
    part = int((match[2] or "0").ljust(9, "0")) // 1000
    return (whole.days * 86_400 + whole.seconds) * UNITS + part
