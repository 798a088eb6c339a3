"""A request that is cancelled before any of its steps, and what is left of it: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

from helpers.tasks import now
from penstock import Limit, RetryPolicy
from penstock.limits import Backoff

#: More steps than a request has.
MANY = 60


class Struck:
    """Runs a coroutine, and cancels its task when it waits for the ``at``-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
                step = lambda: next(steps)  # noqa: E731
            except BaseException as error:
                step = lambda error=error: steps.throw(error)  # type: ignore[misc] # noqa: E731


class Service:
    """Refuses for a while, each time in another way, and takes its time."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.sent: list[tuple[str, float]] = []
        self.open = 0

    def transport(self) -> Any:
        service, library = self, self._library

        class Body(library.AsyncByteStream):  # type: ignore[misc, name-defined]
            is_open = True

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for _ in range(2):
                    await asyncio.sleep(0.01)
                    yield b"."

            async def aclose(self) -> None:
                service.open -= self.is_open
                self.is_open = False
                await asyncio.sleep(0)

        class Inner(library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
            async def handle_async_request(self, request: Any) -> Any:
                path = request.url.path
                service.sent.append((path, now()))
                service.open += 1
                try:
                    await asyncio.sleep(0.1)
                    attempt = [each for each, _ in service.sent].count("/struck")
                    if path == "/struck" and attempt == 1:
                        raise library.ReadTimeout("late")
                except BaseException:
                    service.open -= 1
                    raise
                status, headers = 200, {}
                if path == "/struck" and attempt < 4:
                    status = 500 if attempt == 2 else 429
                    headers = {"Retry-After": "1"} if status == 429 else {}
                return library.Response(status, headers=headers, stream=Body())

        return Inner()


async def play(library: Any, ours: Any, at: int) -> tuple[int, list[str]]:
    """Cancel a request when it waits for the ``at``-th time: how often it did; what was sent."""
    service = Service(library)
    transport = ours.PolicyTransport(
        [Limit(2, per=2)],
        retry=RetryPolicy(5, backoff=Backoff(0.1), budget=None),
        concurrency=1,
        deadline=100,
        transport=service.transport(),
    )
    async with library.AsyncClient(transport=transport, base_url="http://service") as http:
        first = asyncio.create_task(http.get("/first"))
        await asyncio.sleep(0.05)
        struck = Struck(http.get("/struck"), at)

        async def run() -> Any:
            return await struck

        task = asyncio.create_task(run())
        behind = asyncio.create_task(http.get("/behind"))
        await asyncio.wait([task, first, behind])
        assert task.cancelled() or task.result().status_code == 200
        paths = [path for path, _ in service.sent]
        assert (await first).status_code == (await behind).status_code == 200
        statistics = transport.statistics()
        assert (statistics.under_way, statistics.waiting_for_slots, statistics.waiting) == (0, 0, 0)
        assert service.open == 0
        times = [sent_at for _, sent_at in service.sent]
        assert all(sum(start <= at < start + 2 for at in times) <= 2 for start in times)
        await asyncio.sleep(60)
        assert len(service.sent) == len(paths), "it was sent after it was cancelled"
        assert (await http.get("/last")).status_code == 200
    return struck.waits, paths


async def test_wherever_a_request_is_cancelled_it_leaves_nothing_behind(
    library: Any, ours: Any
) -> None:
    waits, paths = await play(library, ours, MANY)
    assert waits < MANY
    assert paths.count("/struck") == 4
    counts = set()
    for at in range(1, waits + 1):
        counts.add((await play(library, ours, at))[1].count("/struck"))
    assert counts == {0, 1, 2, 3, 4}, "not all steps were struck"
