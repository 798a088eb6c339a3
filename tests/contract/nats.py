"""The queue on NATS, as the contract's tests want it: each on streams of its own."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from contract.helpers import MakeQueue
from penstock.brokers.nats import NatsQueue

#: Seconds after which a server is taken to hang.
HANGS = 60


class NatsQueueToLookAt(NatsQueue[Any]):
    """Its ``unprocessed`` is what is on the server, in nobody's hands at the end of a test."""

    def __init__(self, url: str, maxsize: int, timeout: float) -> None:
        self._url = url
        super().__init__(url, f"contract-{uuid4().hex}", maxsize, timeout)

    @property
    def unprocessed(self) -> list[Any]:
        return stored_items(self._url, self.name)


def stored_items(url: str, name: str) -> list[Any]:
    """What a stream holds. By hand, because a property cannot await a client."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 4222), HANGS) as connection:
        lines = connection.makefile("rb")
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB answer 1\r\n')
        items: list[Any] = []
        number = 1
        while True:
            request = json.dumps({"seq": number, "next_by_subj": f"penstock.{name}"}).encode()
            subject = f"$JS.API.STREAM.MSG.GET.{name} answer {len(request)}\r\n".encode()
            connection.sendall(b"PUB " + subject + request + b"\r\n")
            while not (line := lines.readline()).startswith(b"MSG "):
                assert line, "the server hung up"
                if line.startswith(b"PING"):
                    connection.sendall(b"PONG\r\n")
            told = json.loads(lines.read(int(line.split()[-1]) + 2))
            if "error" in told:
                return items
            items.append(json.loads(base64.b64decode(told["message"]["data"])))
            number = told["message"]["seq"] + 1


@asynccontextmanager
async def nats_queues(url: str) -> AsyncIterator[MakeQueue]:
    def make(*, maxsize: int = 100, timeout: float = 0.1) -> NatsQueueToLookAt:
        return NatsQueueToLookAt(url, maxsize, timeout)

    yield make
