"""The adapter for requests: what is particular to that client."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers.http_server import BOUND, Answer, Held, Seen, Server
from penstock import Limit, QueueStateError, RetryPolicy
from penstock.limits import Backoff
from sync.helpers import eventually, in_thread, run_program

requests: Any = pytest.importorskip("requests")

pytestmark = pytest.mark.real_time

QUICK = RetryPolicy(3, backoff=Backoff(0.001, throttle_base=0.001), budget=None)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as server:
        yield server


@pytest.fixture
def mounted(server: Server) -> Iterator[Callable[..., Any]]:
    """Makes a session whose requests are sent under a policy."""
    with requests.Session() as session:
        session.trust_env = False

        def make(*limits: Any, **options: Any) -> Any:
            from penstock.requests import PolicyAdapter

            session.mount("http://", PolicyAdapter(limits, **options))
            return session

        yield make


def failing_first(seen: Seen) -> Answer:
    return Answer(503 if seen.number == 1 else 200)


def test_a_file_is_sent_again_from_where_it_was(
    mounted: Any, server: Server, tmp_path: Path
) -> None:
    server.answer = failing_first
    path = tmp_path / "body"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        file.seek(4)
        assert mounted(retry=QUICK).put(server.url, data=file).status_code == 200
    assert [seen.body for seen in server.seen] == [b"456789"] * 2


def test_a_body_that_breaks_off_is_asked_for_again(mounted: Any, server: Server) -> None:
    def cut() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError

    server.answer = lambda seen: Answer(body=cut() if seen.number == 1 else b"all")
    assert mounted(retry=QUICK).get(server.url).content == b"all"
    assert len(server.seen) == 2


def test_digest_authentication_sends_through_the_adapter(mounted: Any, server: Server) -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    server.answer = lambda seen: (
        Answer()
        if "authorization" in seen.headers
        else Answer(401, {"WWW-Authenticate": challenge})
    )
    session = mounted(concurrency=1)
    auth = requests.auth.HTTPDigestAuth("me", "secret")
    assert session.get(server.url, auth=auth).status_code == 200
    assert session.get_adapter(server.url).statistics().starts == 2


def test_an_adapter_of_ones_own_does_the_sending(server: Server) -> None:
    from penstock.requests import PolicyAdapter

    class Marked(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            request.headers["x-marked"] = "yes"
            return super().send(request, *args, **options)

    server.answer = failing_first
    adapter = PolicyAdapter(adapter=Marked(), retry=QUICK)
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", adapter)
        response = session.get(server.url)
    assert response.status_code == 200
    assert response.connection is adapter
    assert [seen.headers["x-marked"] for seen in server.seen] == ["yes"] * 2


def test_a_raw_body_holds_its_slot_until_it_is_read(mounted: Any, server: Server) -> None:
    server.answer = lambda seen: Answer(body=[b"first ", b"second"])
    session = mounted(concurrency=1)
    adapter = session.get_adapter(server.url)
    response = session.get(server.url, stream=True)
    assert adapter.statistics().under_way == 1
    assert response.raw.read() == b"first second"
    assert adapter.statistics().under_way == 0


def test_many_threads_share_a_session(mounted: Any, server: Server) -> None:
    session = mounted(concurrency=3)
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(session.get, [server.url] * 60))
    assert {answer.status_code for answer in answers} == {200}
    assert server.most_inflight <= 3


def test_no_url_is_told_to_a_policy(mounted: Any) -> None:
    told: list[Exception] = []

    def on(error: Exception) -> bool:
        told.append(error)
        return False

    nowhere = Server()
    nowhere.server_close()
    session = mounted(retry=RetryPolicy(2, on=on))
    with pytest.raises(requests.ConnectionError, match="s3cr3t"):
        session.get(f"{nowhere.url}/?key=s3cr3t")
    assert [type(error) for error in told] == [requests.ConnectionError]
    assert str(told[0]) == "NewConnectionError"


async def test_a_wait_that_would_hold_up_an_event_loop_is_refused(
    mounted: Any, server: Server
) -> None:
    session = mounted(Limit(1, per=3600))
    assert session.get(server.url).status_code == 200
    with pytest.raises(QueueStateError, match=r"the PolicyAdapter would wait.*to_thread"):
        session.get(server.url)


def test_it_cannot_be_pickled(mounted: Any, server: Server) -> None:
    with pytest.raises(TypeError, match="cannot pickle a PolicyAdapter"):
        pickle.dumps(mounted().get_adapter(server.url))


def test_a_wrong_adapter_is_refused(mounted: Any) -> None:
    with pytest.raises(TypeError, match="adapter must be an adapter of requests or None, got 1"):
        mounted(adapter=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_all_slots_and_limits_for_itself(server: Server) -> None:
    """Though the parent holds the only slot when it forks, and after that."""
    server.answer = held = Held()
    program = """
        import os, requests, penstock.requests
        adapter = penstock.requests.PolicyAdapter(concurrency=1)
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", adapter)
        stream = session.get({url!r}, stream=True)
        child = os.fork()
        if not child:
            with requests.Session() as other:
                other.trust_env = False
                other.mount("http://", adapter)
                os._exit(other.get({url!r}).text != "first second")
        print(os.waitpid(child, 0)[1], adapter.statistics().under_way, flush=True)
        os._exit(0)
    """
    running = in_thread(run_program, program.format(url=server.url))
    eventually(lambda: len(server.seen) == 2)
    held.may_go_on.set()
    outcome = running.result(BOUND)
    assert (outcome.returncode, outcome.stdout) == (0, "0 1\n"), outcome.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_closing_a_session_leaves_its_adapter_usable(mounted: Any, server: Server) -> None:
    session = mounted()
    session.get(server.url)
    session.close()
    assert session.get(server.url).status_code == 200
