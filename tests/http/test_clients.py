"""What holds for all clients, against a real server: limits, retries, slots, errors."""

from __future__ import annotations

import asyncio
import email.utils
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import penstock
from helpers.http_kinds import WAYS, Kind
from helpers.http_server import BOUND, Answer, Held, Seen, Server, forget
from helpers.tasks import until
from penstock import CircuitBreaker, Limit, Limiter, Policy, RetryPolicy
from penstock.limits import Backoff, attempts_made

pytestmark = pytest.mark.real_time

QUICK = Backoff(0.001, throttle_base=0.001)


def quick(attempts: int, **options: Any) -> RetryPolicy:
    return RetryPolicy(attempts, backoff=QUICK, budget=None, **options)


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{'threads' if way[2] else 'tasks'}")
def kind(request: pytest.FixtureRequest) -> Kind:
    module, sender, is_blocking = request.param
    pytest.importorskip(module)
    return Kind(module, sender, is_blocking=is_blocking)


# -- limits -----------------------------------------------------------------------------------


async def test_never_more_than_the_limit_in_any_window(kind: Kind, server: Server) -> None:
    began = time.monotonic()
    async with kind.client(server.url, Limit(10, per=1)) as http:
        replies = await asyncio.gather(*(http.get(f"/{number}") for number in range(25)))
    assert {reply.body for reply in replies} == {b"fine"}
    assert len(server.seen) == 25
    starts = [reply.permit._records[0].at for reply in replies]
    assert max(sum(start <= at < start + 1 for at in starts) for start in starts) <= 10
    assert max(seen.at for seen in server.seen) - began >= 2


async def test_no_more_are_under_way_than_allowed(kind: Kind, server: Server) -> None:
    async with kind.client(server.url, concurrency=3) as http:
        await asyncio.gather(*(http.get() for _ in range(30)))
        assert http.statistics().under_way == 0
    assert len(server.seen) == 30
    assert server.most_inflight <= 3


async def test_three_hundred_at_once_find_a_connection_each(kind: Kind, server: Server) -> None:
    """Where the client's own pool is left as it is, too few connections are in it."""
    async with kind.client(server.url, concurrency=300) as http:
        replies = await asyncio.gather(*(http.get() for _ in range(300)))
    assert [reply.status for reply in replies] == [200] * 300


async def test_two_clients_share_a_policy(kind: Kind, server: Server) -> None:
    policy = Policy(limits=[Limit(3, per=3600)], retry=quick(2), deadline=0.5)
    async with (
        kind.client(server.url, policy=policy) as one,
        kind.client(server.url, policy=policy) as other,
    ):
        done = await asyncio.gather(
            *(http.get() for http in (one, other) for _ in range(3)), return_exceptions=True
        )
    assert sum(isinstance(each, penstock.DeadlineExceededError) for each in done) == 3
    assert len(server.seen) == 3


async def test_a_host_that_is_told_to_wait_does_not_hold_up_another(
    kind: Kind, server: Server
) -> None:
    server.answer = lambda seen: (
        Answer(429, {"Retry-After": "600"}) if seen.path == "/busy" else Answer()
    )
    with Server().serving() as other:
        async with kind.client(server.url, concurrency=1) as http:
            assert (await http.send("POST", "/busy")).status == 429
            elsewhere = other.url.replace("127.0.0.1", "localhost")
            http.url = elsewhere
            path = elsewhere if kind.module.startswith("httpx") else ""
            assert (await asyncio.wait_for(http.get(f"{path}/free"), BOUND)).status == 200


# -- retries ----------------------------------------------------------------------------------

#: Statuses that may pass, and those after which a POST is sent again: it was not processed.
MAY_PASS = [408, 425, 429, 500, 502, 503, 504, 529]
NOT_DONE = [408, 425, 429, 503]


def failing_first(status: int, headers: dict[str, str] | None = None) -> Any:
    return lambda seen: Answer(status, headers or {}) if seen.number == 1 else Answer()


@pytest.mark.parametrize(
    ("method", "headers", "options", "after"),
    [
        ("PUT", {}, {}, MAY_PASS),
        ("POST", {}, {}, NOT_DONE),
        ("PATCH", {}, {}, NOT_DONE),
        ("POST", {"idempotency_key": "a1"}, {}, MAY_PASS),
        ("POST", {}, {"retry_unsafe": True}, MAY_PASS),
    ],
)
async def test_a_failure_is_sent_again_where_that_can_do_no_harm(
    kind: Kind,
    server: Server,
    method: str,
    headers: dict[str, str],
    options: dict[str, Any],
    after: list[int],
) -> None:
    async with kind.client(server.url, retry=quick(3), **options) as http:
        for status in MAY_PASS:
            server.seen.clear()
            server.answer = failing_first(status)
            reply = await http.send(method, "/", b"body", **headers)
            assert reply.status == (200 if status in after else status)
            assert [seen.body for seen in server.seen] == [b"body"] * (1 + (status in after))


async def test_what_will_not_pass_is_asked_once(kind: Kind, server: Server) -> None:
    statuses = [400, 401, 404, 409, 422, 501, 505]
    server.answer = lambda seen: Answer(statuses[seen.number - 1])
    async with kind.client(server.url, retry=quick(3), retry_unsafe=True) as http:
        assert [(await http.get()).status for _ in statuses] == statuses
    assert len(server.seen) == len(statuses)


async def test_the_service_decides_over_the_status(kind: Kind, server: Server) -> None:
    async with kind.client(server.url, retry=quick(3)) as http:
        for status, order, attempts in (
            (409, "true", 2),
            (500, "true", 2),
            (503, "false", 1),
            (429, "false", 1),
        ):
            server.seen.clear()
            server.answer = failing_first(status, {"x-should-retry": order})
            await http.send("POST", "/", b"{}")
            assert len(server.seen) == attempts


async def test_the_last_response_is_passed_on(kind: Kind, server: Server) -> None:
    server.answer = lambda seen: Answer(503, body=b"no %d" % seen.number)
    async with kind.client(server.url, retry=quick(3)) as http:
        reply = await http.get()
        assert (reply.status, reply.body) == (503, b"no 3")
        stream = await http.open()
        assert (stream.status, await stream.read()) == (503, b"no 6")
        assert http.statistics().under_way == 0
    assert len(server.seen) == 6


async def test_spent_credit_is_asked_for_once(kind: Kind, server: Server) -> None:
    server.answer = lambda seen: Answer(429, body=b'{"error": {"code": "insufficient_quota"}}')
    async with kind.client(server.url, retry=quick(3)) as http:
        assert b"insufficient_quota" in (await http.get()).body
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("Retry-After", "0.3", 0.3),
        ("retry-after-ms", "300", 0.3),
        ("Retry-After", "date", 0.9),
    ],
)
async def test_all_wait_as_long_as_the_server_says(
    kind: Kind, server: Server, name: str, value: str, seconds: float
) -> None:
    if value == "date":  # whole seconds, and at least one from now
        value = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.answer = failing_first(429, {name: value})
    async with kind.client(server.url, retry=quick(2)) as http:
        first = asyncio.ensure_future(http.send("POST", "/first", b"{}"))
        await until(lambda: http.statistics().gate_closures)
        replies = await asyncio.gather(first, *(http.get() for _ in range(3)))
    assert {reply.status for reply in replies} == {200}
    refused, *others = [seen.at for seen in server.seen]
    assert min(others) - refused >= seconds - 0.02


@pytest.mark.parametrize(
    ("method", "options", "attempts"),
    [("PUT", {}, 3), ("POST", {}, 1), ("POST", {"retry_unsafe": True}, 3)],
)
async def test_a_request_that_is_broken_off_is_sent_again_where_that_can_do_no_harm(
    kind: Kind, server: Server, method: str, options: dict[str, Any], attempts: int
) -> None:
    server.answer = lambda seen: None
    async with kind.client(server.url, retry=quick(3), **options) as http:
        with pytest.raises(kind.error) as caught:
            await http.send(method, "/", b"{}")
        assert http.statistics().under_way == 0
    assert attempts_made(caught.value) == attempts
    # By itself, aiohttp makes an idempotent request once more.
    assert len(server.seen) == attempts * (kind.attempts_by_itself if method == "PUT" else 1)


async def test_what_found_no_server_is_sent_again_whatever_it_is(
    kind: Kind, server: Server
) -> None:
    nowhere = Server()
    nowhere.server_close()
    async with kind.client(nowhere.url, retry=quick(3)) as http:
        with pytest.raises(kind.error) as caught:
            await http.send("POST", "/", b"{}")
    assert attempts_made(caught.value) == 3
    assert not isinstance(caught.value, penstock.PenstockError)


async def test_a_body_that_can_be_read_once_is_sent_once(kind: Kind, server: Server) -> None:
    server.answer = lambda seen: Answer(503, body=b"later")
    async with kind.client(server.url, retry=quick(3)) as http:
        reply = await http.send("PUT", "/", http.unrepeatable())
    assert (reply.status, reply.body) == (503, b"later")
    assert [seen.body for seen in server.seen] == [b"one two"]


async def test_a_server_that_closes_kept_connections_does_no_harm(
    kind: Kind, server: Server
) -> None:
    server.hangs_up = True
    async with kind.client(server.url, retry=quick(3)) as http:
        for _ in range(10):
            assert (await http.get()).status == 200


async def test_a_failure_with_a_long_body_is_passed_on(kind: Kind, server: Server) -> None:
    body = b"x" * (2**21)
    server.answer = lambda seen: Answer(500, body=body)
    async with kind.client(server.url, retry=quick(3), concurrency=1) as http:
        stream = await http.open()
        assert (stream.status, await stream.read()) == (500, body)
        server.answer = lambda seen: Answer()
        assert (await asyncio.wait_for(http.get(), BOUND)).status == 200
    assert len(server.seen) == 2


async def test_a_user_says_what_a_failure_is(kind: Kind, server: Server) -> None:
    server.answer = failing_first(404)

    def is_failure(response: Any) -> bool:
        return bool(404 in (getattr(response, "status", 0), getattr(response, "status_code", 0)))

    async with kind.client(server.url, retry=quick(3), is_failure=is_failure) as http:
        assert (await http.get()).status == 200
    assert len(server.seen) == 2


async def test_a_user_says_what_is_tried_again(kind: Kind, server: Server) -> None:
    seen: list[Exception] = []

    def on(error: Exception) -> bool:
        seen.append(error)
        return len(seen) < 2

    server.answer = lambda seen: Answer(500)
    async with kind.client(server.url, retry=quick(9, on=on)) as http:
        assert (await http.send("POST", "/", b"{}")).status == 500
    assert len(server.seen) == 2
    assert all("500" in str(error) and "http:" not in str(error) for error in seen)


async def test_the_time_for_all_attempts_is_bounded(kind: Kind, server: Server) -> None:
    server.answer = lambda seen: Answer(503, {"Retry-After": "20"}, b"later")
    async with kind.client(server.url, retry=quick(9), deadline=5) as http:
        reply = await asyncio.wait_for(http.get(), BOUND)
    assert (reply.status, reply.body) == (503, b"later")
    assert len(server.seen) == 1


# -- slots ------------------------------------------------------------------------------------


async def test_a_body_that_is_open_keeps_others_waiting(
    kind: Kind, server: Server, held: Held
) -> None:
    async with kind.client(server.url, concurrency=1) as http:
        stream = await http.open("/stream")
        waiting = asyncio.ensure_future(http.get("/next"))
        await until(lambda: http.statistics().waiting_for_slots)
        assert server.paths() == ["/stream"]
        held.may_go_on.set()
        assert await stream.read() == b"first second"
        assert (await asyncio.wait_for(waiting, BOUND)).status == 200
        assert http.statistics().under_way == 0


async def test_a_body_that_is_closed_frees_its_slot(kind: Kind, server: Server, held: Held) -> None:
    async with kind.client(server.url, concurrency=1) as http:
        stream = await http.open("/stream")
        await stream.close()
        assert http.statistics().under_way == 0
        held.may_go_on.set()
        assert (await asyncio.wait_for(http.get("/next"), BOUND)).status == 200


async def test_a_response_that_is_forgotten_frees_its_slot(
    kind: Kind, server: Server, held: Held
) -> None:
    async with kind.client(server.url, concurrency=1) as http:
        stream = await http.open("/stream")
        waiting = asyncio.ensure_future(http.get("/next"))
        await until(lambda: http.statistics().waiting_for_slots)
        held.may_go_on.set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            forget(stream.response)
            del stream
            assert (await asyncio.wait_for(waiting, BOUND)).status == 200


async def test_a_body_that_breaks_off_frees_its_slot(kind: Kind, server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError

    server.answer = lambda seen: Answer(body=chunks()) if seen.number == 1 else Answer()
    async with kind.client(server.url, concurrency=1) as http:
        stream = await http.open()
        with pytest.raises(kind.error):
            await stream.read()
        assert (await asyncio.wait_for(http.get(), BOUND)).status == 200


# -- what is not sent -------------------------------------------------------------------------


async def test_what_cannot_be_sent_gets_errors_of_both(
    kind: Kind, server: Server, held: Held
) -> None:
    async with kind.client(server.url, concurrency=1, timeout=0) as http:
        stream = await http.open("/stream")
        with pytest.raises(kind.error) as full:
            await http.get("/refused")
        await stream.close()
    assert isinstance(full.value, kind.ours.QueueFullError)
    async with kind.client(server.url, concurrency=1, maxsize=1) as http:
        stream = await http.open("/stream")
        waiting = asyncio.ensure_future(http.get("/next"))
        await until(lambda: http.statistics().waiting_for_slots)
        with pytest.raises(kind.ours.QueueFullError, match="1 of 1 requests wait"):
            await http.get("/refused")
        held.may_go_on.set()
        await stream.read()
        await waiting
    async with kind.client(server.url, Limit(1, per=3600), deadline=30) as http:
        await http.get("/first")
        with pytest.raises(kind.error) as late:
            await asyncio.wait_for(http.get("/late"), BOUND)
    assert isinstance(late.value, kind.ours.DeadlineExceededError)
    async with kind.client(server.url, penstock.Budget(1, name="all")) as http:
        await http.get("/first")
        with pytest.raises(kind.error) as spent:
            await http.get("/spent")
    assert isinstance(spent.value, kind.ours.BudgetExceededError)
    assert spent.value.budget == "all"
    server.answer = lambda seen: Answer(500)
    async with kind.client(server.url, breaker=CircuitBreaker(window=1, minimum=1)) as http:
        assert (await http.get("/failed")).status == 500
        with pytest.raises(kind.error) as refused:
            await http.get("/refused")
    assert isinstance(refused.value, kind.ours.CircuitBreakerOpenError)
    assert not {"/refused", "/late", "/spent"} & set(server.paths())
    for error in (full, late, spent, refused):
        assert isinstance(error.value, penstock.PenstockError)


async def test_a_deadline_bounds_the_wait_for_a_limit_that_others_use(
    kind: Kind, server: Server
) -> None:
    limiter = Limiter([Limit(1, per=0.4)])
    sender = {"deadline": 0.6}
    async with kind.client(server.url, policy=Policy(limits=limiter), **sender) as http:
        done = await asyncio.gather(*(http.get() for _ in range(6)), return_exceptions=True)
    late = [each for each in done if isinstance(each, kind.ours.DeadlineExceededError)]
    assert len(late) + len(server.seen) == 6
    assert 3 <= len(late) <= 5


async def test_a_cost_is_that_of_the_request_and_the_true_one_can_be_told(
    kind: Kind, server: Server
) -> None:
    tokens = Limit(
        100, per=3600, cost=lambda request: float(request.headers["x-tokens"]), name="tokens"
    )
    async with kind.client(server.url, tokens) as http:
        for _ in range(5):  # each takes 90 of 100, and one in truth
            reply = await asyncio.wait_for(http.send("POST", x_tokens="90"), BOUND)
            reply.permit.settle("tokens", 1)
        with pytest.raises(ValueError, match=r"a cost of 101 can never pass the limit 'tokens'"):
            await http.send("POST", x_tokens="101")
    assert len(server.seen) == 5


# -- what the client does -----------------------------------------------------------------------


async def test_redirects_and_cookies_are_the_clients(kind: Kind, server: Server) -> None:
    def answer(seen: Seen) -> Answer:
        if seen.path == "/here":
            return Answer(302, {"Location": "/there", "Set-Cookie": "taste=sweet"})
        return Answer(503 if seen.number == 2 else 200)

    server.answer = answer
    async with kind.client(server.url, retry=quick(2), concurrency=1) as http:
        if kind.module.startswith("httpx"):
            http.http.follow_redirects = True
        if kind.module == "aiohttp":
            http.http._cookie_jar._unsafe = True  # for addresses, too
        assert (await http.get("/here")).status == 200
        assert http.statistics().starts == 3
    assert server.paths() == ["/here", "/there", "/there"]
    assert [seen.headers.get("cookie") for seen in server.seen] == [None] + ["taste=sweet"] * 2
