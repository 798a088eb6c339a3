"""The transport for tasks: what a client that is given it does, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import penstock
from helpers.http_server import BOUND, Answer, Held, InThrees, Seen, Server, forget, most_within
from helpers.tasks import until
from penstock import (
    AdaptiveConcurrency,
    Budget,
    CircuitBreaker,
    Limit,
    Limiter,
    QueueStateError,
    RetryPolicy,
)
from penstock.limits import Backoff
from penstock.policies import outages

pytestmark = pytest.mark.real_time

#: Retries that come at once.
QUICK = Backoff(0.001, throttle_base=0.001)


def quick(attempts: int, **options: Any) -> RetryPolicy:
    return RetryPolicy(attempts, backoff=QUICK, budget=None, **options)


@pytest.fixture
def client(library: Any, ours: Any, server: Server) -> Callable[..., Any]:
    """Makes a client of the package that sends through a queue."""

    def make(*limits: Limit | str, event_hooks: Any = None, **options: Any) -> Any:
        return library.AsyncClient(
            base_url=server.url,
            timeout=BOUND,
            event_hooks=event_hooks,
            transport=ours.PolicyTransport(limits, **options),
        )

    return make


async def came(server: Server, count: int) -> None:
    await until(lambda: len(server.seen) >= count)


async def settles() -> None:
    """Let everything happen that can happen by itself in a twentieth of a second."""
    await asyncio.sleep(0.05)


def told_to_wait(seconds: str) -> Callable[[Seen], Answer]:
    return lambda seen: Answer(429, {"Retry-After": seconds}) if seen.number == 1 else Answer()


# -- limits -----------------------------------------------------------------------------------


async def test_never_more_than_the_limit_arrives_in_any_window(client: Any, server: Server) -> None:
    began = time.monotonic()
    async with client(Limit(10, per=1)) as http:
        answers = await asyncio.gather(*(http.get(f"/{number}") for number in range(25)))
    assert {answer.text for answer in answers} == {"fine"}
    assert len(server.seen) == 25
    assert most_within(1, answers) <= 10
    assert max(seen.at for seen in server.seen) - began >= 2


async def test_requests_start_in_the_order_in_which_they_were_made(
    client: Any, server: Server
) -> None:
    async with client(concurrency=1) as http:
        await asyncio.gather(*(http.get(f"/{number}") for number in range(10)))
    assert server.paths() == [f"/{number}" for number in range(10)]


async def test_a_cost_is_that_of_the_request_and_the_true_one_can_be_told(
    client: Any, server: Server
) -> None:
    seen: list[Any] = []

    def cost(request: Any) -> float:
        seen.append(request)
        return float(request.headers["x-tokens"])

    async def settle(response: Any) -> None:
        await response.aread()
        response.extensions["penstock_permit"].settle("tokens", 1)

    tokens = Limit(100, per=3600, cost=cost, name="tokens")
    async with client(tokens, event_hooks={"response": [settle]}) as http:
        for _ in range(5):  # each takes 90 of 100, and one in truth
            await asyncio.wait_for(http.post("/", headers={"x-tokens": "90"}), BOUND)
        with pytest.raises(ValueError, match=r"a cost of 101 can never pass the limit 'tokens'"):
            await http.post("/", headers={"x-tokens": "101"})
    assert len(server.seen) == 5
    assert seen[0].url.path == "/"


async def test_several_transports_share_a_limiter(library: Any, ours: Any, server: Server) -> None:
    limiter = Limiter([Limit(3, per=3600)])
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                library.AsyncClient(transport=ours.PolicyTransport(limiter), base_url=server.url)
            )
            for _ in range(2)
        ]
        calls = [asyncio.create_task(http.get("/")) for http in clients for _ in range(3)]
        await came(server, 3)
        await settles()
        assert len(server.seen) == 3
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_a_redirect_is_a_request_of_its_own(client: Any, server: Server) -> None:
    server.answer = lambda seen: (
        Answer(302, {"Location": "/there"}) if seen.path == "/here" else Answer()
    )
    async with client(concurrency=1) as http:
        answer = await asyncio.wait_for(http.get("/here", follow_redirects=True), BOUND)
        assert http._transport.limits.statistics().grants == 2
    assert answer.url.path == "/there"


# -- retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
async def test_a_failure_is_tried_again(client: Any, server: Server, status: int) -> None:
    server.answer = lambda seen: Answer(status if seen.number < 3 else 200)
    async with client(retry=quick(3)) as http:
        answer = await http.put("/", json={"a": 1})
    assert answer.status_code == 200
    assert [seen.body for seen in server.seen] == [server.seen[0].body] * 3


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
async def test_what_is_the_callers_fault_is_not_tried_again(
    client: Any, server: Server, status: int
) -> None:
    server.answer = lambda seen: Answer(status)
    async with client(retry=quick(3)) as http:
        assert (await http.get("/")).status_code == status
    assert len(server.seen) == 1


async def test_when_attempts_are_used_up_the_last_response_is_the_answer(
    library: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(
        503, {"Content-Encoding": "gzip"}, gzip.compress(b"no %d" % seen.number)
    )
    async with client(retry=quick(3)) as http:
        answer = await http.get("/")
        assert (answer.status_code, answer.text) == (503, "no 3")
        with pytest.raises(library.HTTPStatusError):
            answer.raise_for_status()
        async with http.stream("GET", "/") as answer:
            assert b"".join([chunk async for chunk in answer.aiter_bytes()]) == b"no 6"
    assert len(server.seen) == 6


async def test_all_wait_as_long_as_the_server_says(client: Any, server: Server) -> None:
    server.answer = told_to_wait("1")
    async with client(retry=quick(2)) as http:
        first = asyncio.create_task(http.get("/first"))
        await came(server, 1)
        await until(lambda: http._transport.limits.statistics().closures)
        answers = await asyncio.gather(first, *(http.get(f"/{number}") for number in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    refused, *others = [seen.at for seen in server.seen]
    assert len(others) == 6
    assert min(others) - refused >= 0.99


async def test_what_is_left_according_to_a_header_is_kept_to(client: Any, server: Server) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "700ms"}
    server.answer = lambda seen: Answer(headers=headers if seen.number == 1 else {})
    async with client() as http:
        await http.get("/")
        await http.get("/")
    assert server.seen[1].at - server.seen[0].at >= 0.69


async def test_connections_of_failures_are_used_again(
    library: Any, ours: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(429 if seen.number < 5 else 200)
    opened = []

    async def trace(name: str, info: Any) -> None:
        if name.endswith("connect_tcp.complete"):
            opened.append(name)

    transport = ours.PolicyTransport(retry=quick(5))
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        assert (await http.get("/", extensions={"trace": trace})).status_code == 200
    assert len(server.seen) == 5
    assert len(opened) == 1


@pytest.mark.parametrize(("method", "headers", "attempts"), [
    ("GET", {}, 3),
    ("PUT", {}, 3),
    ("POST", {}, 1),
    ("POST", {"Idempotency-Key": "a1"}, 3),
])  # fmt: skip
async def test_a_broken_connection_is_tried_again_where_that_can_do_no_harm(
    library: Any, client: Any, server: Server, method: str, headers: Any, attempts: int
) -> None:
    server.answer = lambda seen: None
    async with client(retry=quick(3)) as http:
        with pytest.raises(library.RemoteProtocolError) as caught:
            await http.request(method, "/", headers=headers)
    assert len(server.seen) == attempts
    assert penstock.limits.attempts_made(caught.value) == attempts
    assert caught.value.request.url.path == "/"


async def test_a_request_that_found_no_server_is_sent_again_whatever_it_is(
    library: Any, ours: Any, server: Server
) -> None:
    failures = iter([library.ConnectError("no"), library.ConnectTimeout("no")])

    class Unreachable(library.AsyncHTTPTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            for failure in failures:
                raise failure
            return await super().handle_async_request(request)

    transport = ours.PolicyTransport(retry=quick(3), transport=Unreachable())
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        assert (await http.post("/", json={})).status_code == 200
    assert len(server.seen) == 1


async def test_a_body_that_is_a_stream_is_sent_once(client: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(503, body=b"later")

    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with client(retry=quick(3)) as http:
        answer = await http.put("/", content=body())
    assert (answer.status_code, answer.text) == (503, "later")
    assert [seen.body for seen in server.seen] == [b"one two"]


async def test_a_policy_of_ones_own_sees_the_response(
    library: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(
        409, body=b'{"again": %s}' % [b"true", b"false"][seen.number > 2]
    )

    def on(error: Exception) -> bool:
        assert isinstance(error, library.HTTPStatusError)
        assert error.request.method == "GET"
        return bool(error.response.json()["again"])

    async with client(
        retry=quick(9, on=on), is_failure=lambda response: response.status_code == 409
    ) as http:
        answer = await http.get("/")
    assert answer.json() == {"again": False}
    assert len(server.seen) == 3


async def test_what_is_spent_is_asked_for_once(client: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(429, body=b'{"error": {"code": "insufficient_quota"}}')
    async with client(retry=quick(3)) as http:
        answer = await http.get("/")
    assert answer.json() == {"error": {"code": "insufficient_quota"}}
    assert len(server.seen) == 1


async def test_a_wait_that_is_no_refusal_holds_up_nobody(
    library: Any, ours: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(202, {"Retry-After": "60"})
    transport = ours.PolicyTransport()
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        assert (await http.get("/")).status_code == 202
        assert transport.limits.statistics().closures == 0


async def test_a_policy_that_is_broken_says_so(client: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(500)

    def on(error: Exception) -> bool:
        raise KeyError("typo")

    async with client(retry=quick(3, on=on)) as http:
        with pytest.raises(KeyError, match="typo"):
            await http.get("/")


async def test_a_failure_with_a_long_body_is_passed_on(client: Any, server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(40):
            yield bytes([number]) * 2**16

    server.answer = lambda seen: Answer(500, body=chunks())
    async with client(retry=quick(3), concurrency=1) as http:
        answer = await http.get("/")
        assert answer.content == b"".join(chunks())
        server.answer = lambda seen: Answer()
        assert (await asyncio.wait_for(http.get("/"), BOUND)).status_code == 200
    assert len(server.seen) == 2


async def test_the_timeouts_of_a_client_are_for_each_attempt(
    library: Any, client: Any, server: Server, held: Held
) -> None:
    def answer(seen: Seen) -> Answer | None:
        if seen.number == 1:
            assert held.may_go_on.wait(BOUND)
        return Answer()

    server.answer = answer
    # An attempt waits longer for its turn than the timeout allows for its answer.
    async with client(Limit(1, per=0.6), retry=quick(9)) as http:
        timeout = library.Timeout(BOUND, read=0.3)
        assert (await http.get("/", timeout=timeout)).status_code == 200
        assert len(server.seen) >= 2  # a machine that stands still may have missed more
    held.may_go_on.set()


async def test_an_answer_that_does_not_come_is_waited_for_in_each_attempt(
    library: Any, client: Any, server: Server, held: Held
) -> None:
    def answer(seen: Seen) -> Answer:
        assert held.may_go_on.wait(BOUND)
        return Answer()

    server.answer = answer
    async with client(retry=quick(2)) as http:
        with pytest.raises(library.ReadTimeout):
            await http.get("/", timeout=library.Timeout(BOUND, read=0.05))
    held.may_go_on.set()
    await until(lambda: len(server.seen) == 2)  # it may hear of the second after the client left


# -- concurrency and streams ------------------------------------------------------------------


async def test_no_more_are_under_way_than_allowed_until_their_bodies_have_come(
    client: Any, server: Server
) -> None:
    server.answer = InThrees()
    async with client(concurrency=3) as http:
        answers = await asyncio.gather(*(http.get("/") for _ in range(21)))
    assert {answer.text for answer in answers} == {"first second"}
    assert server.most_inflight == 3


async def test_a_stream_that_is_open_keeps_others_waiting(
    client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1) as http:
        async with http.stream("GET", "/stream") as answer:
            chunks = answer.aiter_bytes()
            assert await anext(chunks) == b"first "  # before the rest is there
            waiting = asyncio.create_task(http.get("/next"))
            await settles()
            assert server.paths() == ["/stream"]
            held.may_go_on.set()
            assert await anext(chunks) == b"second"
        assert (await asyncio.wait_for(waiting, BOUND)).status_code == 200


async def test_a_stream_that_is_closed_early_frees_its_place(
    client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1) as http:
        async with http.stream("GET", "/stream"):
            pass
        server.answer = lambda seen: Answer()
        assert (await asyncio.wait_for(http.get("/next"), BOUND)).status_code == 200


async def test_a_response_that_is_forgotten_is_closed_when_it_is_collected(
    library: Any, client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1) as http:
        request = http.build_request("GET", "/forgotten")
        answers = [await http.send(request, stream=True)]
        waiting = asyncio.create_task(http.get("/next"))
        await settles()
        assert not waiting.done()
        server.answer = lambda seen: Answer()
        with pytest.warns(ResourceWarning, match="a response was neither read nor closed"):
            forget(answers)
        assert (await asyncio.wait_for(waiting, BOUND)).status_code == 200
        assert len(http._transport._inner._pool.connections) == 1


async def test_a_body_that_breaks_off_frees_its_place(
    library: Any, client: Any, server: Server
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError

    server.answer = lambda seen: Answer(body=chunks()) if seen.number == 1 else Answer()
    async with client(concurrency=1) as http:
        request = http.build_request("GET", "/")
        answer = await http.send(request, stream=True)
        with pytest.raises(library.RemoteProtocolError):
            await answer.aread()
        assert (await asyncio.wait_for(http.get("/"), BOUND)).status_code == 200


async def test_adaptive_concurrency_finds_what_the_server_takes(
    client: Any, server: Server
) -> None:
    def answer(seen: Seen) -> Answer:
        # Not what has arrived by now, which may be any part of what is on its way.
        is_surplus = http._transport.statistics().under_way > 4
        threading.Event().wait(0.01)
        return Answer(429 if is_surplus else 200)

    server.answer = answer
    adaptive = AdaptiveConcurrency(1, 64)
    async with client(concurrency=adaptive, retry=quick(50)) as http:
        answers = await asyncio.gather(*(http.get("/") for _ in range(120)))
    assert {answer.status_code for answer in answers} == {200}
    assert adaptive.cuts > 0
    # Having found it, not above it; below it as far as a slow machine makes it look slow.
    assert adaptive.limit <= 8


# -- cancelling -------------------------------------------------------------------------------


async def test_a_request_that_is_cancelled_while_it_waits_is_not_sent(
    client: Any, server: Server
) -> None:
    limit = Limit(1, per=3600)
    async with client(limit, concurrency=1) as http:
        await http.get("/first")
        waiting = [asyncio.create_task(http.get(f"/{number}")) for number in range(3)]
        last = asyncio.create_task(http.get("/last"))
        await settles()
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)
        assert all(call.cancelled() for call in waiting)
        limit.change(max=2)  # room for one: those that were not sent cost nothing
        await asyncio.wait_for(last, BOUND)
    assert server.paths() == ["/first", "/last"]


async def test_a_request_that_is_cancelled_in_flight_is_broken_off(
    client: Any, server: Server, held: Held
) -> None:
    def answer(seen: Seen) -> Answer | None:
        if seen.number == 1:
            assert held.may_go_on.wait(BOUND)
        return Answer()

    server.answer = answer
    async with client(concurrency=1, retry=quick(3)) as http:
        slow = asyncio.create_task(http.get("/slow"))
        await came(server, 1)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await asyncio.wait_for(http.get("/next"), BOUND)).status_code == 200
    assert server.paths() == ["/slow", "/next"]


async def test_a_request_that_is_cancelled_between_attempts_is_not_sent_again(
    client: Any, server: Server
) -> None:
    server.answer = told_to_wait("0.2")
    limit = Limit(1, per=3600)  # or a machine that stands still would be too late to cancel it
    async with client(limit, retry=quick(3)) as http:
        call = asyncio.create_task(http.get("/"))
        await came(server, 1)
        await until(lambda: http._transport.statistics().retries)
        call.cancel()
        await asyncio.wait([call])
        limit.change(max=100)
        assert http._transport.statistics().under_way == 0
        await settles()
    assert len(server.seen) == 1


# -- what is refused --------------------------------------------------------------------------


async def test_when_as_many_wait_as_may_one_more_is_refused(
    library: Any, ours: Any, client: Any, server: Server, held: Held
) -> None:
    async with client(maxsize=1, concurrency=1) as http:
        async with http.stream("GET", "/stream"):
            waiting = asyncio.create_task(http.get("/waiting"))
            await until(lambda: http._transport.statistics().waiting_for_slots)
            with pytest.raises(library.PoolTimeout, match="1 of 1 requests wait") as caught:
                await http.get("/refused")
            held.may_go_on.set()
        await waiting
        assert (await http.get("/next")).status_code == 200
    assert isinstance(caught.value, (ours.QueueFullError, penstock.QueueFullError))
    assert (caught.value.queue_size, caught.value.queue_capacity) == (1, 1)
    assert caught.value.request.url.path == "/refused"
    assert server.paths() == ["/stream", "/waiting", "/next"]


async def test_what_waits_for_a_limit_takes_up_room_too(
    library: Any, client: Any, server: Server
) -> None:
    limit = Limit(1, per=3600)
    async with client(limit, maxsize=2) as http:
        await http.get("/")
        waiting = [asyncio.create_task(http.get("/")) for _ in range(2)]
        await settles()
        with pytest.raises(library.PoolTimeout, match="2 of 2 requests wait"):
            await http.get("/refused")
        limit.change(max=10)
        await asyncio.gather(*waiting)
        await http.get("/")
    assert len(server.seen) == 4


async def test_without_a_slot_in_time_a_request_is_refused(
    library: Any, ours: Any, client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1, timeout=0) as http:
        async with http.stream("GET", "/stream"):
            with pytest.raises(library.PoolTimeout, match="1 requests under way") as caught:
                await http.get("/refused")
            held.may_go_on.set()
        assert (await http.get("/next")).status_code == 200
    assert isinstance(caught.value, (ours.QueueFullError, penstock.QueueFullError))
    assert server.paths() == ["/stream", "/next"]


async def sent_in_time(http: Any, path: str) -> Any:
    """Send a request for which there is room, again if this machine was too slow to do so."""
    while True:
        with contextlib.suppress(penstock.DeadlineExceededError):
            return await http.send(http.build_request("GET", path), stream=True)


async def test_a_request_that_cannot_be_sent_before_its_deadline_is_not(
    library: Any, ours: Any, client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1, deadline=0.2) as http:
        stream = await sent_in_time(http, "/stream")
        with pytest.raises(library.TimeoutException) as caught:
            await asyncio.wait_for(http.get("/late"), BOUND)
        held.may_go_on.set()
        await stream.aclose()
        await (await sent_in_time(http, "/next")).aclose()
    assert isinstance(caught.value, ours.DeadlineExceededError)
    assert isinstance(caught.value, penstock.DeadlineExceededError)
    assert server.paths() == ["/stream", "/next"]


async def test_a_deadline_that_a_limit_rules_out_is_told_at_once(
    library: Any, client: Any, server: Server
) -> None:
    async with client(Limit(1, per=3600), deadline=60) as http:
        await http.get("/")
        with pytest.raises(library.TimeoutException):
            await asyncio.wait_for(http.get("/late"), BOUND)
    assert len(server.seen) == 1


async def test_a_deadline_bounds_the_wait_for_a_slot_too(
    ours: Any, client: Any, server: Server, held: Held
) -> None:
    async with client(concurrency=1, deadline=0.2) as http:
        stream = await sent_in_time(http, "/stream")
        late = await asyncio.gather(*(http.get("/late") for _ in range(3)), return_exceptions=True)
        held.may_go_on.set()
        await stream.aclose()
    assert [type(error) for error in late] == [ours.DeadlineExceededError] * 3
    assert server.paths() == ["/stream"]


async def test_while_the_breaker_is_open_nothing_is_sent(
    library: Any, ours: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(500)
    async with client(breaker=CircuitBreaker(window=2, minimum=2)) as http:
        assert [(await http.get("/")).status_code for _ in range(2)] == [500, 500]
        with pytest.raises(library.TransportError) as caught:
            await http.get("/")
    assert isinstance(caught.value, ours.CircuitBreakerOpenError)
    assert isinstance(caught.value, penstock.CircuitBreakerOpenError)
    assert 0 < caught.value.retry_after <= 30
    assert len(server.seen) == 2


async def test_when_a_budget_is_spent_nothing_is_sent(
    library: Any, ours: Any, client: Any, server: Server
) -> None:
    async with client("500/min", Budget(1, name="all")) as http:
        assert (await http.get("/")).status_code == 200
        with pytest.raises(library.TransportError) as caught:
            await http.get("/")
    assert isinstance(caught.value, ours.BudgetExceededError)
    assert isinstance(caught.value, penstock.BudgetExceededError)
    assert (caught.value.budget, caught.value.used, caught.value.max) == ("all", 1, 1)
    assert len(server.seen) == 1


async def test_what_a_request_cost_is_known_before_its_budget_is_spent(
    library: Any, ours: Any, client: Any, server: Server, held: Held
) -> None:
    budget = Budget(10, cost=lambda request: 6, name="tokens")
    async with client(budget) as http:
        stream = await sent_in_time(http, "/stream")
        waiting = asyncio.ensure_future(http.get("/waiting"))
        await until(lambda: http._transport.limits.statistics().waiting)
        stream.extensions["penstock_permit"].settle(budget, 4)
        await until(lambda: server.paths() == ["/stream", "/waiting"])
        held.may_go_on.set()
        assert (await waiting).status_code == 200
        await stream.aclose()
    assert budget.used == 10


# -- its life ---------------------------------------------------------------------------------


async def test_closing_ends_what_waits_and_breaks_off_what_is_in_flight(
    library: Any, client: Any, server: Server, held: Held
) -> None:
    http = client(concurrency=1)
    stream = await http.send(http.build_request("GET", "/stream"), stream=True)
    waiting = [asyncio.create_task(http.get("/waiting")) for _ in range(3)]
    await settles()
    await asyncio.wait_for(http.aclose(), BOUND)
    for call in waiting:
        with pytest.raises(QueueStateError, match="the PolicyTransport http is closed"):
            await call
    with pytest.raises((library.ReadError, library.RemoteProtocolError, library.StreamClosed)):
        await stream.aread()
    assert server.paths() == ["/stream"]
    with pytest.raises(RuntimeError, match="closed"):
        await http.get("/")


async def test_a_closed_transport_says_so(library: Any, ours: Any, server: Server) -> None:
    transport = ours.PolicyTransport(name="prices")
    async with library.AsyncClient(transport=transport, base_url=server.url) as http:
        await http.get("/")
    await transport.aclose()  # again does nothing
    with pytest.raises(QueueStateError, match="the PolicyTransport prices is closed"):
        await transport.handle_async_request(library.Request("GET", server.url))


async def test_one_that_was_never_used_can_be_closed(client: Any) -> None:
    await client().aclose()
    async with client():
        pass


def test_one_transport_serves_several_event_loops(library: Any, ours: Any) -> None:
    inner = library.MockTransport(lambda request: library.Response(200))
    transport = ours.PolicyTransport([Limit(2, per=3600)], transport=inner, deadline=0.1)

    async def main() -> list[Any]:
        http = library.AsyncClient(transport=transport, base_url="http://nowhere")
        return await asyncio.gather(*(http.get("/") for _ in range(2)), return_exceptions=True)

    answers = [*asyncio.run(main()), *asyncio.run(main())]
    assert [getattr(answer, "status_code", type(answer)) for answer in answers] == [
        200,
        200,
        ours.DeadlineExceededError,
        ours.DeadlineExceededError,
    ]


async def test_any_transport_can_do_the_sending(library: Any, ours: Any) -> None:
    async def handle(request: Any) -> Any:
        return library.Response(200, json={"path": request.url.path})

    transport = ours.PolicyTransport([Limit(100, per=1)], transport=library.MockTransport(handle))
    async with library.AsyncClient(transport=transport, base_url="http://nowhere") as http:
        answers = await asyncio.gather(*(http.get(f"/{number}") for number in range(3)))
    assert [answer.json()["path"] for answer in answers] == ["/0", "/1", "/2"]


async def test_it_tells_how_it_does(client: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(500 if seen.number == 1 else 200)
    async with client(retry=quick(2), name="prices", concurrency=7) as http:
        await http.get("/")
        statistics = http._transport.statistics()
    assert (statistics.name, statistics.starts) == ("prices", 2)
    assert (statistics.failures, statistics.retries) == (1, 1)
    assert (statistics.concurrency_limit, statistics.under_way) == (7, 0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no notes")
async def test_why_a_request_is_not_sent_again_is_noted(
    library: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: None

    async def body() -> AsyncIterator[bytes]:
        yield b"one"

    async with client(retry=quick(3)) as http:
        with pytest.raises(library.RemoteProtocolError) as unsafe:
            await http.post("/", json={})
        with pytest.raises(library.RemoteProtocolError) as streamed:
            await http.put("/", content=body())
    assert "it may have been processed, and retry_unsafe is False" in notes(unsafe.value)
    assert "its body can be sent only once" in notes(streamed.value)


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


class OnlyOnce:
    """Answers once, and finds nobody from then on."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.calls = 0

    def __call__(self, request: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            return self.library.Response(200)
        raise self.library.ConnectError("nobody there", request=request)


async def test_with_hold_the_last_failure_waits_for_the_verdict_and_sends_nothing(
    library: Any, ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "_VERDICT", 0.1)
    service, retry = OnlyOnce(library), RetryPolicy(2, hold=True)
    transport = library.MockTransport(service)
    async with library.AsyncClient(
        transport=ours.PolicyTransport(retry=retry, transport=transport)
    ) as client:
        await client.get("http://service/")
        with pytest.raises(library.ConnectError):
            await client.get("http://service/")
    assert service.calls == 3


def test_nor_does_it_in_threads(library: Any, ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_VERDICT", 0.1)
    service, retry = OnlyOnce(library), RetryPolicy(2, hold=True)
    transport = library.MockTransport(service)
    with library.Client(
        transport=ours.SyncPolicyTransport(retry=retry, transport=transport)
    ) as client:
        client.get("http://service/")
        with pytest.raises(library.ConnectError):
            client.get("http://service/")
    assert service.calls == 3
