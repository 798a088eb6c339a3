"""Ways to put items where other machines can take them, for ``brokers.py``."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from multiprocessing.connection import Connection
from time import process_time
from typing import Any, Final, TypeAlias

import nats
import saq
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    Header,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError
from nats.nuid import NUID
from saq.queue.redis import RedisQueue
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, SendTaskError
from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq_nats import PullBasedJetStreamBroker

from penstock.brokers.nats import NatsQueue

BOUND, WORKERS = 1_000, 10
#: Seconds after which an item comes again whose worker is not heard of.
ACK_WAIT = 30
#: How often an item may be handed out, where there is a limit.
TRIES = 10

Item: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Item], Awaitable[None]]
Left: TypeAlias = Callable[[], Awaitable[int]]

#: What the stream, its subject and its consumer are called, and JetStream's number for: it is full.
_NAME, _WORKERS, _FULL = "bench", "workers", 10077
#: JSON as penstock has it, so that all items are of the same size.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
#: What numbers begin at, so that all have as many digits.
_FIRST: Final = 100_000
_PADDING: Final = "x" * (512 - len(to_json({"number": _FIRST, "payload": ""})))


def item(number: int) -> Item:
    """An item of 512 bytes, as JSON."""
    return {"number": _FIRST + number, "payload": _PADDING}


def number_of(item: Item) -> int:
    """The number that an item was made with."""
    return int(item["number"]) - _FIRST


class Client:
    """One way to put items and to take them.

    Args:
        url: where the broker is.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self) -> AbstractAsyncContextManager[None]:
        """Connect; what is needed at the broker is made if it is not there."""
        raise NotImplementedError

    async def put(self, number: int) -> None:
        """Put an item; it is stored when this returns. While there is no room, wait."""
        raise NotImplementedError

    def work(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Have ten workers take items. Each is acknowledged when ``work`` has returned."""
        raise NotImplementedError


# -- NATS -----------------------------------------------------------------------------------------


def _stream() -> StreamConfig:
    return StreamConfig(
        name=_NAME,
        subjects=[_NAME],
        retention=RetentionPolicy.WORK_QUEUE,
        max_msgs=BOUND,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        duplicate_window=120,
    )


def _consumer() -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=_WORKERS,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT,
        max_ack_pending=BOUND,
    )


async def until_stored(store: Callable[[], Awaitable[bool]]) -> None:
    """Try until there is room, with the pauses that penstock makes."""
    pause = 0.005
    while not await store():
        await asyncio.sleep(random.uniform(0.5, 1) * pause)
        pause = min(pause * 2, 0.25)


class Penstock(Client):
    """``NatsQueue``."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._queue = NatsQueue[Item](
            self.url, _NAME, BOUND, timeout=math.inf, ack_wait=ACK_WAIT, max_deliveries=TRIES
        )
        async with self._queue:
            yield

    async def put(self, number: int) -> None:
        await self._queue.put(item(number))

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        await self._queue.start_workers(work, WORKERS)
        yield
        await self._queue.stop_workers()


class ByHand(Client):
    """nats-py: each worker has a subscription of its own, and fetches one item at a time."""

    _js: JetStreamContext

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        client = await nats.connect(self.url)
        self._js = client.jetstream()
        await self._js.add_stream(_stream())
        await self._js.add_consumer(_NAME, _consumer())
        self._ids = NUID()
        try:
            yield
        finally:
            await client.close()

    async def put(self, number: int) -> None:
        payload = to_json(item(number)).encode()

        async def store() -> bool:
            # A new id each time: what was refused is not to be known again.
            headers = {Header.MSG_ID.value: self._ids.next().decode()}
            try:
                await self._js.publish(_NAME, payload, headers=headers)
            except APIError as error:
                if error.err_code != _FULL:
                    raise
                return False
            return True

        await until_stored(store)

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        tasks = {asyncio.create_task(task) for task in self._tasks(work)}
        yield
        await end(tasks)

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._one_by_one(work) for _ in range(WORKERS)]

    async def _one_by_one(self, work: Work) -> None:
        subscription = await self._js.pull_subscribe_bind(_WORKERS, stream=_NAME)
        while True:
            with suppress(NatsTimeoutError):
                for message in await subscription.fetch(1):
                    await _handle(message, work)


async def end(tasks: set[asyncio.Task[None]]) -> None:
    # More than once: before Python 3.12 wait_for, by which nats-py waits, can swallow it.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.1)


async def _handle(message: Msg, work: Work) -> None:
    await work(json.loads(message.data))
    await message.ack_sync()


class ByHandInBatches(ByHand):
    """nats-py: one subscription, which fetches ten items; when all of them are done, the next.

    Where fewer are there, ``fetch`` waits for the rest: up to five seconds.
    """

    def _tasks(self, work: Work) -> list[Coroutine[Any, Any, None]]:
        return [self._in_batches(work)]

    async def _in_batches(self, work: Work) -> None:
        subscription = await self._js.pull_subscribe_bind(_WORKERS, stream=_NAME)
        while True:
            with suppress(NatsTimeoutError):
                messages = await subscription.fetch(WORKERS)
                await asyncio.gather(*(_handle(message, work) for message in messages))


# -- task queues ----------------------------------------------------------------------------------


class Taskiq(Client):
    """taskiq with taskiq-nats, on a stream like penstock's."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._broker: AsyncBroker = PullBasedJetStreamBroker(
            self.url,
            subject=_NAME,
            stream_name=_NAME,
            durable=_WORKERS,
            stream_config=_stream(),
            consumer_config=_consumer(),
        )
        self._ids = NUID()
        self._work: Work = _nothing

        async def process(item: Item) -> None:
            await self._work(item)

        self._task: AsyncTaskiqDecoratedTask[Any, Any] = self._broker.task(task_name="process")(
            process
        )
        await self._broker.startup()
        try:
            yield
        finally:
            await self._broker.shutdown()

    async def put(self, number: int) -> None:
        content = item(number)

        async def store() -> bool:
            # Labels become headers.
            label = {Header.MSG_ID.value: self._ids.next().decode()}
            try:
                await self._task.kicker().with_labels(**label).kiq(content)
            except SendTaskError as error:
                cause = error.__cause__
                if not isinstance(cause, APIError) or cause.err_code != _FULL:
                    raise
                return False
            return True

        await until_stored(store)

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        self._work = work
        receiver = asyncio.create_task(
            run_receiver_task(
                self._broker, max_async_tasks=WORKERS, ack_time=AcknowledgeType.WHEN_EXECUTED
            )
        )
        yield
        await end({receiver})


class Saq(Client):
    """SAQ on Redis. It has no bound."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._queue = RedisQueue.from_url(self.url, name=_NAME)
        await self._queue.connect()
        # What a worker does first, and then every minute. While jobs are there, it takes one that
        # has just been handed out for one whose worker died, and aborts it.
        await self._queue.sweep()
        try:
            yield
        finally:
            await self._queue.disconnect()

    async def put(self, number: int) -> None:
        # Without retries the job of a worker that died would be given up; results are not kept.
        await self._queue.enqueue(
            "process", item=item(number), retries=TRIES, timeout=ACK_WAIT, ttl=-1
        )

    @asynccontextmanager
    async def work(self, work: Work) -> AsyncIterator[None]:
        async def process(_: Any, *, item: Item) -> None:
            await work(item)

        worker = saq.Worker(self._queue, [("process", process)], concurrency=WORKERS)
        worker.SIGNALS = []  # Ctrl-C is for the benchmark
        running = asyncio.create_task(worker.start())
        yield
        await worker.stop()
        await running


async def _nothing(_: Item) -> None:
    pass


# -- what is left, as an onlooker sees it ----------------------------------------------------------


@asynccontextmanager
async def nats_onlooker(url: str) -> AsyncIterator[Left]:
    """How many items the server holds that are not acknowledged. At the end all of it goes."""
    client = await nats.connect(url)
    js = client.jetstream()

    async def left() -> int:
        return (await js.stream_info(_NAME)).state.messages

    try:
        yield left
    finally:
        for stream in await js.streams_info():
            await js.delete_stream(stream.config.name or "")
        await client.close()


@asynccontextmanager
async def redis_onlooker(url: str) -> AsyncIterator[Left]:
    """How many jobs of SAQ there are that are not finished. At the end all of it goes."""
    queue = RedisQueue.from_url(url, name=_NAME)

    async def left() -> int:
        return await queue.count("incomplete")

    try:
        yield left
    finally:
        await queue.redis.flushall()
        await queue.disconnect()


# -- producers in processes of their own -----------------------------------------------------------


def produce(orders: Connection) -> None:
    """Put what is ordered, until there are no more orders. The main function of a process.

    An order is a class of clients, a URL, and the numbers of the items. Its answers: that it is
    ready, then (when told to go) the seconds of CPU that it took.
    """
    while (order := orders.recv()) is not None:
        asyncio.run(_carry_out(orders, *order))


async def _carry_out(
    orders: Connection, make: type[Client], url: str, numbers: Iterable[int]
) -> None:
    client = make(url)
    async with client.open():
        orders.send(None)
        await asyncio.to_thread(orders.recv)
        begin = process_time()
        await put_all(client, numbers)
        orders.send(process_time() - begin)


async def put_all(client: Client, numbers: Iterable[int]) -> None:
    """Put one item after the other."""
    for number in numbers:
        await client.put(number)
