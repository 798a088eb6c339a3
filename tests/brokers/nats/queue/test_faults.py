"""What breaks under way: the server is killed, the connection stands still or is cut."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.nats.conftest import MakeQueue
from brokers.nats.helpers import BOUND, messages, programs, show
from brokers.proxy import Proxy
from brokers.servers import NatsServer
from helpers.queues import put_all
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import Limit
from penstock.errors import BrokerError, QueueUnknownError
from processes import wait_for
from telemetry.recorder import Recorder

# nats-py leaves its socket open where a reconnect gets a connection and nothing more.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Start = Callable[..., NatsServer]


@pytest.fixture(autouse=True)
def leave_no_leaks() -> Iterator[None]:
    """To the next test, which would be blamed for them."""
    yield
    gc.collect()


@pytest.fixture
def proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    """Stands before the shared server."""
    with Proxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
def make_queue(proxy: Proxy, make_queue: MakeQueue) -> MakeQueue:
    """Queues that are stopped before the proxy goes: else they would wait for it."""
    assert proxy.url
    return make_queue


# -- the server dies --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", pytest.param("terminate", marks=pytest.mark.long)])
def test_what_was_confirmed_is_processed_though_the_server_dies_under_load(
    start_nats: Start, name: str, tmp_path: Path, end: str
) -> None:
    server = start_nats()
    settings = {"servers": server.url, "name": name, "maxsize": 200, "ack_wait": 2.0}
    with programs(tmp_path / "programs") as start:
        worker = start("work", workers=8, takes=0.002, **settings)
        producer = start(
            "produce", items=list(range(1500)), at_once=16, timeout=None, pause=0.01, **settings
        )
        for count in (200, 700):
            producer.until(lambda it, n=count: len(it.items("accepted")) >= n)
            getattr(server, end)()
            server.start()
        assert producer.wait() == 0
        wait_for("the queue to be empty", lambda: messages(server, name) == 0, BOUND, every=0.05)
        worker.let_end()
        assert worker.wait() == 0
        accepted, done = producer.items("accepted"), Counter(worker.items("done"))
        assert len(accepted) == 1500  # it waits for the server, and is not told to
        assert set(done) == set(accepted)
        assert messages(server, f"{name}-dead") == 0
        show("processed twice:", sum(count > 1 for count in done.values()))


async def test_a_lost_connection_is_logged_once_and_workers_go_on(
    make_queue: MakeQueue, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    queue, worker = make_queue(proxy.url), Worker()
    await queue.start_workers(worker, 3)
    await put_all(queue, 1, 2)
    await soon(queue.join())
    caplog.set_level(logging.WARNING)
    proxy.cut()
    await until(lambda: "Lost the connection" in caplog.text)
    put = asyncio.create_task(queue.put(3))
    await asyncio.sleep(1)  # time for some tries that fail
    proxy.resume()
    assert await soon(put) is True
    await soon(queue.join())
    assert worker.done == [1, 2, 3]
    said = [record.getMessage() for record in caplog.records if record.name == "penstock"]
    assert len([line for line in said if line.startswith("Lost the connection to NATS at")]) == 1
    assert len([line for line in said if line.startswith("Connected to NATS again")]) == 1
    assert len(said) == 2


async def test_workers_that_waited_get_items_again_after_a_reconnect(
    make_queue: MakeQueue, proxy: Proxy, nats_server: NatsServer
) -> None:
    queue, other, worker = make_queue(proxy.url), make_queue(), Worker()
    await queue.start_workers(worker, 1)
    await other.start()
    for item in range(3):
        proxy.cut()
        # Before it has noticed, the server would send the item there, and wait for ack_wait.
        await until(lambda: nats_server.monitor("/connz")["num_connections"] == 1)
        await put_all(other, item)
        proxy.resume()
        await until(lambda n=item: len(worker.done) == n + 1, 10)
    assert worker.done == [0, 1, 2]
    await soon(queue.join())
    info = await queue.info()
    assert (info.redelivered, info.size) == (0, 0)


# -- a put in doubt ---------------------------------------------------------------------------


async def in_doubt(queue: Any, proxy: Proxy) -> asyncio.Task[bool]:
    """A put that the server may have heard of."""
    proxy.stall()
    put = asyncio.create_task(queue.put("in doubt"))
    await asyncio.sleep(0.3)
    assert not put.done()
    return put


@pytest.mark.parametrize("end", ["resumes", "is cut"])
async def test_a_put_in_doubt_is_stored_once(
    make_queue: MakeQueue, proxy: Proxy, nats_server: NatsServer, name: str, end: str
) -> None:
    queue = make_queue(proxy.url)
    await queue.start()
    put = await in_doubt(queue, proxy)
    if end == "is cut":
        proxy.cut()
    proxy.resume()
    assert await soon(put) is True
    assert messages(nats_server, name) == 1


async def test_a_put_whose_answer_was_lost_is_offered_again_and_stored_once(
    make_queue: MakeQueue, nats_server: NatsServer, name: str
) -> None:
    """The request gets through, its answer does not."""
    with DeafProxy(nats_server.port) as proxy:
        queue = make_queue(proxy.url, maxsize=1)
        await queue.start()
        proxy.swallow_answers()
        put = asyncio.create_task(queue.put("in doubt", timeout=0))
        await until(lambda: messages(nats_server, name) == 1)
        assert not put.done()
        proxy.cut()
        proxy.resume()
        assert await soon(put) is True  # though the queue is full now, of this very item
        assert messages(nats_server, name) == 1
        assert await queue.put("too many", timeout=0) is False


@pytest.mark.long
async def test_an_offer_that_arrives_late_was_not_refused_before(
    make_queue: MakeQueue, proxy: Proxy, nats_server: NatsServer, name: str
) -> None:
    """It stays on its way while the queue is asked again by another way, and is full."""
    ways = [proxy.url, nats_server.url]
    queue = make_queue(ways, maxsize=1, options={"dont_randomize": True})
    other = make_queue(maxsize=1)
    await queue.start()
    await other.start()
    assert proxy.connections == 1
    proxy.stall()
    put = asyncio.create_task(queue.put("late", timeout=0))
    await asyncio.sleep(0.3)
    await put_all(other, "first")
    await asyncio.wait({put}, timeout=12)
    # By now it has been told that there is no room, and that is not the whole truth.
    assert await soon(other.get()) == "first"
    other.task_done()
    await soon(other.join())
    proxy.resume()
    outcome = await asyncio.gather(soon(put, 70), return_exceptions=True)
    await asyncio.sleep(1)
    stored = messages(nats_server, name)
    assert (outcome, stored) == ([True], 1)


@pytest.mark.long
async def test_a_put_in_doubt_that_is_stopped_is_unknown(
    make_queue: MakeQueue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.brokers.lifecycle._LAST_WORDS", 1.0)
    queue = make_queue(proxy.url)
    await queue.start()
    put = await in_doubt(queue, proxy)
    stop = asyncio.create_task(queue.stop(timeout=0))
    with pytest.raises(QueueUnknownError) as caught:
        await soon(put, 60)
    assert caught.value.message_id
    await soon(stop, 60)
    proxy.resume()


@pytest.mark.long
async def test_telemetry_tells_puts_that_failed_from_those_in_doubt(
    make_queue: MakeQueue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher.DOUBT", 0.5)
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 0.5)
    monkeypatch.setattr("penstock.brokers.lifecycle._LAST_WORDS", 1.0)
    recorder = Recorder()
    queue = make_queue(proxy.url, telemetry=recorder.telemetry())
    await queue.start()
    await put_all(queue, 1)
    put = await in_doubt(queue, proxy)
    with pytest.raises(QueueUnknownError, match="put it again if twice is better than not at all"):
        await soon(put)
    proxy.cut()
    with pytest.raises(BrokerError, match="is not stored") as caught:
        await soon(queue.put("failed"))
    assert not isinstance(caught.value, QueueUnknownError)
    outcomes = {key[-1]: count for key, count in recorder.values("penstock.put.items").items()}
    told = {outcome: count for outcome, count in outcomes.items() if count}
    assert told == {"accepted": 1, "unknown": 1, "failed": 1}
    spans = recorder.spans(f"put {queue.name}")
    ends = [dict(span.attributes or {})["penstock.put.outcome"] for span in spans]
    assert ends == ["accepted", "unknown", "failed"]
    errors = [dict(span.attributes or {}).get("error.type") for span in spans]
    assert errors == [
        None,
        "penstock.errors.QueueUnknownError",
        "penstock.errors.BrokerError",
    ]
    assert queue.metrics == {"enqueued": 1, "processed": 0, "errors": 0, "backpressure_events": 0}
    proxy.resume()
    recorder.shutdown()


# -- what is in hand meanwhile ----------------------------------------------------------------


async def test_an_item_that_ends_while_the_server_is_silent_is_settled_later(
    make_queue: MakeQueue, proxy: Proxy, nats_server: NatsServer, name: str
) -> None:
    queue, worker = make_queue(proxy.url, ack_wait=20), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    proxy.stall()
    worker.may_go_on.set()
    await until(lambda: worker.done)
    assert messages(nats_server, name) == 1
    proxy.resume()
    await until(lambda: messages(nats_server, name) == 0)
    assert worker.began == ["a"]


async def test_who_is_cut_off_for_longer_than_ack_wait_loses_its_items_to_others(
    make_queue: MakeQueue, proxy: Proxy, nats_server: NatsServer, name: str
) -> None:
    cut_off, other = make_queue(proxy.url, ack_wait=1), make_queue(ack_wait=1)
    held, worker = Worker(held=True), Worker()
    await cut_off.start_workers(held, 2)
    await put_all(cut_off, 1, 2)
    await until(lambda: len(held.began) == 2)
    proxy.cut()
    await other.start_workers(worker, 2)
    await until(lambda: len(worker.done) == 2, 10)
    proxy.resume()
    held.may_go_on.set()
    await until(lambda: len(held.done) == 2)
    await put_all(other, 3)
    await soon(other.join())
    await soon(cut_off.join())  # what it holds is not its own any more, and it knows in time
    assert messages(nats_server, name) == 0


async def test_what_waits_for_its_rules_longer_than_it_is_kept(
    make_queue: MakeQueue, proxy: Proxy
) -> None:
    """The server hands it out again meanwhile, to the same machine even."""
    limits = [Limit(1, 4.0, key=lambda item: "one")]
    queue, worker = make_queue(proxy.url, ack_wait=1, limits=limits), Worker()
    await queue.start_workers(worker, 2)
    await put_all(queue, 1, 2)
    await until(lambda: queue.statistics().retrying == 1)
    proxy.stall()
    await asyncio.sleep(2)
    proxy.resume()
    await until(lambda: sorted(set(worker.done)) == [1, 2])
    await soon(queue.join())


@pytest.mark.long
async def test_a_stop_is_bounded_though_the_server_is_silent(
    make_queue: MakeQueue, proxy: Proxy
) -> None:
    queue, worker = make_queue(proxy.url), Worker(held=True)
    await queue.start_workers(worker, 1)
    await put_all(queue, "a")
    await until(lambda: worker.began)
    proxy.stall()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await soon(queue.stop(timeout=0), 60) is False
    assert loop.time() - began < 25  # of the 30 s that a container has
    proxy.resume()


async def test_a_server_that_is_gone_for_good_is_an_error_and_not_a_refusal(
    start_nats: Start, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher.DOUBT", 1.0)
    monkeypatch.setattr("penstock.brokers.nats.queue.publisher._NO_RESPONDERS", 1.0)
    server = start_nats()
    queue = make_queue(server.url)
    await queue.start()
    server.kill()
    with pytest.raises(BrokerError, match=r"not stored|Unknown whether"):
        await soon(queue.put("a", timeout=math.inf))
    assert queue.metrics["backpressure_events"] == 0


class DeafProxy(Proxy):
    """Can also pass on what clients say, and swallow what the server answers."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._swallows = False

    def swallow_answers(self) -> None:
        self._swallows = True

    def resume(self) -> None:
        self._swallows = False
        super().resume()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        is_answer = sink.get_extra_info("sockname")[1] == self.port
        while data := await source.read(65_536):
            await self._flows.wait()
            if not (is_answer and self._swallows):
                sink.write(data)
                await sink.drain()
