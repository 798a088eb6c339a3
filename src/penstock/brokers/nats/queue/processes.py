"""What the server does not know of a queue: what each process that has it open did.

The server keeps no count of the puts that it refused. So whoever wants to know asks all processes
at once, and each answers for itself. It costs nothing as long as nobody asks.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.nuid import NUID

from penstock.brokers.engine import BrokerProcess
from penstock.brokers.nats.connection.connection import Connection


@dataclass(frozen=True)
class NatsProcess(BrokerProcess):
    """What one process says that it did with a queue since the queue was made there."""


class ProcessStats:
    """Asks, and answers.

    Args:
        subject: where all processes that have the queue open listen.
        tell: returns what this process did.
    """

    def __init__(
        self, connection: Connection, subject: str, tell: Callable[[], dict[str, int]]
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._tell = tell
        # One process may have a queue open twice.
        self._id = NUID().next().decode()

    async def listen(self) -> None:
        """Answer from now on, as long as the connection is open."""
        await self._connection.subscribe(self._subject, self._answer)

    async def _answer(self, message: Msg) -> None:
        if not message.reply or message.data == self._id.encode():  # it was us who asked
            return
        told = NatsProcess(host=socket.gethostname(), pid=os.getpid(), **self._tell())
        await self._connection.send(message.reply, json.dumps(asdict(told)).encode())

    async def ask(self, wait: float) -> list[NatsProcess]:
        """What the other processes say that answer in ``wait`` seconds, by machine and number."""
        heard: list[NatsProcess] = []

        async def hear(message: Msg) -> None:
            process = _read(message)
            if process is not None:
                heard.append(process)

        inbox = self._connection.client.new_inbox()
        subscription = await self._connection.subscribe(inbox, hear)
        try:
            await self._connection.send(self._subject, self._id.encode(), inbox)
            await asyncio.sleep(wait)
        finally:
            await subscription.unsubscribe()
        return sorted(heard, key=lambda process: (process.host, process.pid))


def _read(message: Msg) -> NatsProcess | None:
    try:
        told: dict[str, Any] = json.loads(message.data)
        # A newer version may tell more.
        known = {key: told[key] for key in NatsProcess.__dataclass_fields__}
        return NatsProcess(**known)
    except (ValueError, TypeError, KeyError):  # nobody is there ("503"), or it is none of ours
        return None
