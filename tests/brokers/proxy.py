"""A proxy that stands between clients and a server, and can stand still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

from penstock._util.compat import Self
from processes import HeldPort

#: Seconds that it may take to do what it is told.
BOUND = 30.0


class Proxy:
    """Passes on what comes to a port of this machine to another, in a thread of its own.

    Whoever connects is served also while the server is away: the connection ends at once then.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._held = HeldPort()
        self.port = self._held.number
        self._loop = asyncio.new_event_loop()
        self._flows: asyncio.Event
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND)
        self._loop.close()
        self._held.close()

    def stall(self) -> None:
        """Keep all connections and take new ones, but pass on nothing, either way."""
        self._do(self._let(flow=False))

    def cut(self) -> None:
        """Close all connections, and take no new ones."""
        self._do(self._cut())

    def resume(self) -> None:
        """Pass on what comes; what came while it stalled first."""
        self._do(self._let(flow=True))

    # -- in its loop ------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND)

    async def _open(self) -> None:
        self._flows = asyncio.Event()
        await self._let(flow=True)

    async def _let(self, *, flow: bool) -> None:
        if flow:
            self._flows.set()
        else:
            self._flows.clear()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await asyncio.sleep(0)  # one that was just accepted has its task now
        await self._end_all()
        if server is not None:
            await server.wait_closed()

    async def _end_all(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(there)
            await self._pass_on(reader, there, back, writer)
        except (OSError, asyncio.CancelledError):
            pass  # it ends for both
        finally:
            self._connections.discard(task)
            for each in writers:
                each.transport.abort()
                with suppress(OSError):
                    await each.wait_closed()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._pump(reader, there)),
            asyncio.ensure_future(self._pump(back, writer)),
        ]
        try:
            # When one side hangs up, so does the other.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._flows.wait()
            sink.write(data)
            await sink.drain()
