"""The transport for threads: what a blocking client that is given it does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import penstock
from helpers.http_server import BOUND, Answer, Held, InThrees, Seen, Server, forget, most_within
from penstock import Budget, CircuitBreaker, Limit, QueueStateError, RetryPolicy
from penstock.limits import Backoff
from sync.helpers import eventually, in_thread, run_program


def quick(attempts: int) -> RetryPolicy:
    return RetryPolicy(attempts, backoff=Backoff(0.001, throttle_base=0.001), budget=None)


@pytest.fixture
def client(library: Any, ours: Any, server: Server) -> Callable[..., Any]:
    """Makes a blocking client of the package that sends through a queue."""

    def make(*limits: Limit | str, **options: Any) -> Any:
        return library.Client(
            base_url=server.url,
            timeout=BOUND,
            transport=ours.SyncPolicyTransport(limits, **options),
        )

    return make


def test_never_more_than_the_limit_arrives_in_any_window(client: Any, server: Server) -> None:
    began = time.monotonic()
    with client(Limit(10, per=1)) as http, ThreadPoolExecutor(25) as threads:
        answers = list(threads.map(http.get, [f"/{number}" for number in range(25)]))
    assert {answer.text for answer in answers} == {"fine"}
    assert len(server.seen) == 25
    assert most_within(1, answers) <= 10
    assert max(seen.at for seen in server.seen) - began >= 2


def test_no_more_are_under_way_than_allowed(client: Any, server: Server) -> None:
    server.answer = InThrees()
    with client(concurrency=3) as http, ThreadPoolExecutor(21) as threads:
        answers = list(threads.map(http.get, ["/"] * 21))
    assert {answer.text for answer in answers} == {"first second"}
    assert server.most_inflight == 3


def test_a_failure_is_tried_again_and_the_last_one_is_the_answer(
    library: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: Answer(503 if seen.number != 3 else 200, body=b"%d" % seen.number)
    with client(retry=quick(3)) as http:
        assert http.put("/", json={}).text == "3"
        answer = http.get("/")
        assert (answer.status_code, answer.text) == (503, "6")
        with pytest.raises(library.HTTPStatusError):
            answer.raise_for_status()


def test_all_wait_as_long_as_the_server_says(client: Any, server: Server) -> None:
    def answer(seen: Seen) -> Answer:
        return Answer(429, {"Retry-After": "1"}) if seen.number == 1 else Answer()

    server.answer = answer
    with client(retry=quick(2)) as http, ThreadPoolExecutor(6) as threads:
        first = threads.submit(http.get, "/")
        eventually(lambda: http._transport.limits.statistics().closures)
        answers = [first.result(BOUND), *threads.map(http.get, ["/"] * 5)]
    assert {answer.status_code for answer in answers} == {200}
    refused, *others = [seen.at for seen in server.seen]
    assert min(others) - refused >= 0.99


def test_a_body_that_is_a_stream_is_sent_once(client: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(503)
    with client(retry=quick(3)) as http:
        assert http.put("/", content=iter([b"one ", b"two"])).status_code == 503
    assert [seen.body for seen in server.seen] == [b"one two"]


def test_a_broken_connection_is_tried_again_where_that_can_do_no_harm(
    library: Any, client: Any, server: Server
) -> None:
    server.answer = lambda seen: None
    with client(retry=quick(3)) as http:
        for method in ("GET", "POST"):
            with pytest.raises(library.RemoteProtocolError):
                http.request(method, "/")
    assert [seen.method for seen in server.seen] == ["GET"] * 3 + ["POST"]


def test_a_stream_that_is_open_keeps_others_waiting(
    client: Any, server: Server, held: Held
) -> None:
    with client(concurrency=1) as http:
        with http.stream("GET", "/stream") as answer:
            chunks = answer.iter_bytes()
            assert next(chunks) == b"first "
            waiting = in_thread(http.get, "/next")
            time.sleep(0.05)
            assert server.paths() == ["/stream"]
            held.may_go_on.set()
            assert next(chunks) == b"second"
        assert waiting.result(BOUND).status_code == 200


def test_a_response_that_is_forgotten_is_closed_when_it_is_collected(
    client: Any, server: Server, held: Held
) -> None:
    with client(concurrency=1) as http:
        answers = [http.send(http.build_request("GET", "/forgotten"), stream=True)]
        server.answer = lambda seen: Answer()
        with pytest.warns(ResourceWarning, match="a response was neither read nor closed"):
            forget(answers)
        assert in_thread(http.get, "/next").result(BOUND).status_code == 200


def test_a_failure_with_a_long_body_is_passed_on(client: Any, server: Server) -> None:
    body = b"x" * (2**21)
    server.answer = lambda seen: Answer(500, body=body)
    with client(retry=quick(3)) as http:
        assert http.get("/").content == body
    assert len(server.seen) == 1


def sent_in_time(http: Any, path: str) -> Any:
    """Send a request for which there is room, again if this machine was too slow to do so."""
    while True:
        with suppress(penstock.DeadlineExceededError):
            return http.send(http.build_request("GET", path), stream=True)


def test_what_cannot_be_sent_is_refused_by_errors_of_both(
    library: Any, ours: Any, client: Any, server: Server, held: Held
) -> None:
    with client(concurrency=1, maxsize=1) as http:
        with http.stream("GET", "/stream"):
            waiting = in_thread(http.get, "/waiting")
            eventually(lambda: http._transport.statistics().waiting_for_slots)
            with pytest.raises(library.PoolTimeout) as full:
                http.get("/refused")
            held.may_go_on.set()
        assert waiting.result(BOUND).status_code == 200
    assert isinstance(full.value, ours.QueueFullError)

    held.may_go_on.clear()
    with client(concurrency=1, deadline=0.2) as http:
        stream = sent_in_time(http, "/stream")
        with pytest.raises(library.TimeoutException) as late:
            http.get("/late")
        held.may_go_on.set()
        stream.close()
    assert isinstance(late.value, (ours.DeadlineExceededError, penstock.DeadlineExceededError))
    assert not {"/refused", "/late"} & set(server.paths())

    server.answer = lambda seen: Answer(500)
    with client(breaker=CircuitBreaker(window=1, minimum=1)) as http:
        assert http.get("/").status_code == 500
        with pytest.raises(library.TransportError) as open_:
            http.get("/")
    assert isinstance(open_.value, ours.CircuitBreakerOpenError)

    server.answer = lambda seen: Answer(200)
    with client("500/min", Budget(1)) as http:
        assert http.get("/").status_code == 200
        with pytest.raises(library.TransportError) as spent:
            http.get("/")
    assert isinstance(spent.value, ours.BudgetExceededError)


def test_closing_ends_what_waits(library: Any, client: Any, server: Server, held: Held) -> None:
    http = client(concurrency=1)
    stream = http.send(http.build_request("GET", "/stream"), stream=True)
    waiting = [in_thread(http.get, "/waiting") for _ in range(3)]
    eventually(lambda: http._transport.statistics().waiting_for_slots == 3)
    in_thread(http.close).result(BOUND)
    for call in waiting:
        with pytest.raises(QueueStateError, match="the SyncPolicyTransport http is closed"):
            call.result(BOUND)
    assert server.paths() == ["/stream"]
    held.may_go_on.set()
    stream.close()
    transport = http._transport
    transport.close()  # again does nothing
    with pytest.raises(QueueStateError, match="is closed"):
        transport.handle_request(library.Request("GET", server.url))


async def test_a_wait_that_would_hold_up_a_running_event_loop_is_refused(
    client: Any, server: Server
) -> None:
    http = client(Limit(1, per=3600))
    assert http.get("/").status_code == 200  # it need not wait
    with pytest.raises(QueueStateError, match=r"block the event loop.*asyncio\.to_thread"):
        http.get("/")
    http.close()
    assert len(server.seen) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_gets_out_of_the_wait_and_of_the_request(
    client: Any, server: Server, held: Held
) -> None:
    def interrupt_when(condition: Callable[[], Any]) -> None:
        eventually(condition)
        os.kill(os.getpid(), signal.SIGINT)

    with client(concurrency=1) as http:
        with http.stream("GET", "/stream"):
            in_thread(interrupt_when, lambda: http._transport.statistics().waiting_for_slots)
            with pytest.raises(KeyboardInterrupt):
                http.get("/waiting")
        server.answer = lambda seen: Answer(body=b"x" * held.may_go_on.wait(BOUND))
        in_thread(interrupt_when, lambda: "/slow" in server.paths())
        with pytest.raises(KeyboardInterrupt):
            http.get("/slow")
        server.answer = lambda seen: Answer()
        assert http.get("/next").status_code == 200
    assert server.paths() == ["/stream", "/slow", "/next"]


PROGRAM = """
    import sys, {library}, penstock.{library}
    http = {library}.Client(transport=penstock.{library}.SyncPolicyTransport(), trust_env=False)
    assert http.get({url!r}).text == "first second"
    {end}
    print("the end")
"""


@pytest.mark.parametrize(
    "end", ["pass", "answer = http.send(http.build_request('GET', {url!r}), stream=True)"]
)
def test_a_program_ends_though_nothing_was_closed(
    library: Any, server: Server, held: Held, end: str
) -> None:
    held.may_go_on.set()
    end = end.format(url=server.url)
    source = PROGRAM.format(library=library.__name__, url=server.url, end=end)
    outcome = run_program(source)
    assert (outcome.returncode, outcome.stdout) == (0, "the end\n"), outcome.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_one_that_was_not_used_before_a_fork_works_in_the_child(
    library: Any, server: Server
) -> None:
    program = """
        import os, {library}, penstock, penstock.{library}
        transport = penstock.{library}.SyncPolicyTransport([penstock.Limit(5, per=1)])
        http = {library}.Client(transport=transport, trust_env=False)
        child = os.fork()
        answer = http.get({url!r}).text
        http.close()
        if not child:
            os._exit(answer != "fine")
        print(answer, os.waitpid(child, 0)[1])
    """
    outcome = run_program(program.format(library=library.__name__, url=server.url))
    assert (outcome.returncode, outcome.stdout) == (0, "fine 0\n"), outcome.stderr


def test_threads_and_tasks_share_a_limiter(
    library: Any, ours: Any, client: Any, server: Server
) -> None:
    limiter = penstock.Limiter([Limit(3, per=3600)])

    async def main() -> int:
        transport = ours.PolicyTransport(limiter, deadline=BOUND)
        async with library.AsyncClient(transport=transport, base_url=server.url) as http:
            done = await asyncio.gather(*(http.get("/") for _ in range(3)), return_exceptions=True)
        return sum(isinstance(error, ours.DeadlineExceededError) for error in done)

    transport = ours.SyncPolicyTransport(limiter)
    with library.Client(transport=transport, base_url=server.url) as http:
        http.get("/")
        assert asyncio.run(main()) == 1
    assert len(server.seen) == 3
