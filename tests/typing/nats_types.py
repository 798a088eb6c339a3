"""What type checkers make of the queue on NATS: the codec says what its items are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter
from typing_extensions import assert_type

from penstock import Limit, Limiter, QueueStatistics, WorkQueue
from penstock.brokers.codecs import Codec, JsonCodec, MsgpackCodec
from penstock.brokers.nats import (
    BrokerDeadLetter,
    NatsLimiter,
    NatsProcess,
    NatsQueue,
    QueueInfo,
    QueueSettings,
    existing_settings,
)
from penstock.limits import Permit
from penstock.protocols import AsyncResourceManager, Queue, RateLimiter

URL = "nats://localhost:4222"


class Order(BaseModel):
    """An item as users write them."""

    number: int


class Hexadecimal:
    """A codec as users write them."""

    content_type = "text/x-hexadecimal"

    def encode(self, item: int) -> bytes:
        return f"{item:x}".encode()

    def decode(self, data: bytes) -> int:
        return int(data, 16)


async def ship(order: Order) -> str:
    return str(order.number)


def codecs() -> None:
    assert_type(JsonCodec(), JsonCodec[Any])
    assert_type(JsonCodec(Order), JsonCodec[Order])
    assert_type(JsonCodec(TypeAdapter(list[int])), JsonCodec[list[int]])
    assert_type(MsgpackCodec(), MsgpackCodec[Any])
    assert_type(MsgpackCodec(Order), MsgpackCodec[Order])
    assert_type(JsonCodec(Order).encode(Order(number=1)), bytes)
    assert_type(MsgpackCodec(Order).decode(b""), Order)
    codec: Codec[int] = Hexadecimal()
    assert_type(codec.decode(b""), int)


async def a_queue() -> None:
    queue = NatsQueue([URL], "orders", codec=JsonCodec(Order), replicas=3)
    assert_type(queue, NatsQueue[Order])
    async with queue as entered:
        assert_type(entered, NatsQueue[Order])
    assert_type(await queue.put(Order(number=1), 5, deadline=60), bool)
    assert_type(await queue.put(Order(number=1), id="order-1"), bool)
    assert_type(await queue.put_many([Order(number=1)], timeout=5), int)
    assert_type(await queue.pause_all(), None)
    assert_type(await queue.resume_all(), None)
    assert_type(queue.is_paused, bool)
    assert_type(await queue.get(), Order)
    assert_type(queue.statistics(), QueueStatistics)
    assert_type(await queue.info(), QueueInfo)
    assert_type(await queue.processes(), list[NatsProcess])
    assert_type(await queue.look_at_dead_letters(), list[BrokerDeadLetter[Order]])
    assert_type((await queue.look_at_dead_letters())[0].item, Order | None)
    assert_type(await queue.redrive(), int)
    assert_type(await queue.stop(), bool)
    await queue.start_workers(ship, 2)
    assert_type(NatsQueue(URL, "numbers", codec=Hexadecimal()), NatsQueue[int])
    assert_type(await existing_settings(URL, "orders"), QueueSettings | None)


async def behind_the_face() -> None:
    orders = NatsQueue(URL, name="orders", codec=MsgpackCodec(Order))
    work = WorkQueue(queue=orders, limits=[])
    assert_type(work, WorkQueue[Order])
    assert_type(await work.get(), Order)
    await work.process(ship)


async def shared_limits() -> None:
    limiter = NatsLimiter(URL, [Limit(5, per=1)], name="orders")
    assert_type(await limiter.acquire(Order(number=1)), Permit)
    limits: Limiter = limiter
    WorkQueue[Order](limits=limits)
    NatsQueue[Order](URL, "orders", limits=limiter)
    await limiter.aclose()


def meets_its_protocols(
    queue: NatsQueue[Order], limiter: NatsLimiter
) -> tuple[Queue[Order], AsyncResourceManager, RateLimiter, Codec[Order]]:
    """A class meets a protocol when it may be returned for one."""
    return queue, queue, limiter, JsonCodec(Order)


async def wrong_uses() -> None:
    queue = NatsQueue(URL, "orders", codec=JsonCodec(Order))
    await queue.put(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await queue.start_workers(len, 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    NatsQueue(URL, "orders", codec=JsonCodec)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    NatsQueue[str](URL, "orders", codec=Hexadecimal())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    NatsQueue(servers=4222, name="orders")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    NatsLimiter(URL, Limit(5, per=1), name="orders")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    JsonCodec(Order).encode(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
