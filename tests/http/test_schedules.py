"""Random schedules of requests, in virtual time: nothing is sent twice, late or one too many."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from helpers.tasks import now, until
from penstock import Limit, QueueStateError, RetryPolicy
from penstock.limits import Backoff

CONCURRENCY, REQUESTS = 3, 40
MAX, PER = 4, 1.0


class Service:
    """An inner transport that takes its time, fails, and notes what it saw."""

    def __init__(self, library: Any, rng: random.Random) -> None:
        self._library = library
        self._rng = rng
        self.sent: list[tuple[str, float]] = []
        self.open = self.most_open = 0
        self.is_calm = False
        self.takes = 0.0

    def transport(self) -> Any:
        service = self

        class Body(self._library.AsyncByteStream):  # type: ignore[misc, name-defined]
            is_open = True

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for _ in range(3):
                    await asyncio.sleep(service._rng.choice([0, 0.05]))
                    if not service.is_calm and service._rng.random() < 0.03:
                        await self.aclose()
                        raise service._library.ReadError("broken off")
                    yield b"."

            async def aclose(self) -> None:
                service.open -= self.is_open
                self.is_open = False

        class Inner(self._library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
            async def handle_async_request(self, request: Any) -> Any:
                rng = service._rng
                service.sent.append((request.url.path, now()))
                service.open += 1
                service.most_open = max(service.most_open, service.open)
                if service.is_calm:
                    await asyncio.sleep(service.takes)
                    return service._library.Response(200, stream=Body())
                try:
                    await asyncio.sleep(rng.choice([0, 0.01, 0.2]))
                    if rng.random() < 0.1:
                        raise service._library.ReadTimeout("late")
                except BaseException:
                    service.open -= 1
                    raise
                status = rng.choice([200] * 6 + [404, 429, 500])
                headers = {"Retry-After": "1"} if status == 429 and rng.random() < 0.5 else {}
                return service._library.Response(status, headers=headers, stream=Body())

        return Inner()


class Callers:
    """Send requests, and cancel, drop, half-read and close what comes of them."""

    def __init__(self, library: Any, ours: Any, rng: random.Random) -> None:
        self._library = library
        self._rng = rng
        self.service = Service(library, rng)
        self.left: dict[str, float] = {}
        policy = RetryPolicy(3, budget=None, on=lambda error: rng.random() < 0.8)
        self.transport = ours.PolicyTransport(
            [Limit(MAX, per=PER)],
            retry=policy,
            concurrency=CONCURRENCY,
            maxsize=5,
            deadline=rng.choice([None, 3.0]),
            transport=self.service.transport(),
        )
        self.client = library.AsyncClient(transport=self.transport, base_url="http://service")

    async def one(self, number: int) -> None:
        rng, path = self._rng, f"/{number}"
        await asyncio.sleep(rng.uniform(0, 3))
        try:
            async with self.client.stream("GET", path) as response:
                await asyncio.sleep(rng.choice([0, 0, 0.1]))
                if rng.random() < 0.8:
                    await response.aread()
        except (self._library.TransportError, QueueStateError):
            pass
        finally:
            self.left[path] = now()

    async def run(self) -> None:
        rng = self._rng
        calls = [asyncio.create_task(self.one(number)) for number in range(REQUESTS)]
        for call in calls:
            if rng.random() < 0.4:
                asyncio.get_running_loop().call_later(rng.uniform(0, 6), call.cancel)
        closes = rng.random() < 0.3
        if closes:
            await asyncio.sleep(rng.uniform(1, 6))
            await self.client.aclose()
        await asyncio.wait(calls)
        if not closes:
            await self.all_places_are_free()
            await self.client.aclose()

    async def all_places_are_free(self) -> None:
        """As many as may can be under way again, at once."""
        await asyncio.sleep(200)  # no gate is closed for longer
        assert self.service.open == 0
        self.service.is_calm = True
        # After a refusal one request goes first, and the others wait for what comes of it.
        await (await self.client.send(self.client.build_request("GET", "/last"))).aread()
        self.service.most_open, self.service.takes = 0, 60.0
        await asyncio.sleep(PER)
        requests = [self.client.build_request("GET", "/last") for _ in range(CONCURRENCY)]
        for response in await asyncio.gather(
            *(self.client.send(request, stream=True) for request in requests)
        ):
            await response.aclose()
        assert self.service.most_open == CONCURRENCY
        self.left["/last"] = now()


@pytest.mark.parametrize("seed", range(60))
async def test_a_random_schedule(library: Any, ours: Any, seed: int) -> None:
    callers = Callers(library, ours, random.Random(seed))
    await callers.run()
    service = callers.service
    assert service.open == 0
    assert service.most_open <= CONCURRENCY
    times = [at for _, at in service.sent]
    for start in times:
        assert sum(start <= at < start + PER for at in times) <= MAX
    for path, at in service.sent:
        assert at <= callers.left[path], "it was sent after its caller was gone"
    attempts = Counter(path for path, _ in service.sent if path != "/last")
    assert max(attempts.values()) <= 3
    assert callers.transport.statistics().under_way == 0


async def test_a_request_waits_for_a_service_that_is_away_where_the_policy_holds(
    library: Any, ours: Any
) -> None:
    """In an outage, of which the service's answers to others have told."""
    is_away = False
    sent = 0

    async def handle(request: Any) -> Any:
        nonlocal sent
        sent += 1
        return library.Response(503 if is_away else 200)

    transport = ours.PolicyTransport(
        retry=RetryPolicy(2, backoff=Backoff(0.001), hold=True),
        transport=library.MockTransport(handle),
    )
    async with library.AsyncClient(transport=transport, base_url="http://service") as http:
        assert (await http.get("/")).status_code == 200
        is_away = True
        calls = [asyncio.create_task(http.get("/")) for _ in range(8)]
        await until(lambda: sent >= 7)  # with a probe
        assert not any(call.done() for call in calls)
        is_away = False
        answers = await asyncio.wait_for(asyncio.gather(*calls), 60)
    assert {answer.status_code for answer in answers} == {200}
