"""One random program that uses a queue, compared with a plain list after every step.

All durations are multiples of an eighth of a second, so that things often happen at the same
instant, and floating point adds them up exactly.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers.logs import SILENT
from penstock import (
    BoundedQueue,
    QueueClosedError,
    QueueEmptyError,
    QueueFullError,
    QueueStateError,
    QueueStatus,
)
from simulation.model import CURRENT, Attempt, Ending, Item, Model, WorkerGroup
from simulation.program import MOMENTS, OBSERVED, ItemError, OddError, Program, PutOutcome

TIMEOUTS = (None, None, 0, 0.125, 0.25, 1.0, 1000.0, math.inf)


@dataclass(frozen=True)
class Plan:
    """What a worker function does with an item."""

    #: Seconds to sleep first; None not to suspend at all; inf to be stuck until cancelled.
    sleep: float | None = None
    #: What to raise in the end.
    error: type[BaseException] | None = None
    #: Put another item on the way, with this timeout.
    puts: float | None = None
    #: Stop the queue on the way, from a task of its own.
    stops: bool = False
    #: Seconds of clean-up when cancelled; then the cancellation goes on, or is ignored.
    lingers: float | None = None
    ignores_cancellation: bool = False


OBEDIENT = Plan()


@dataclass
class Op:
    """A call under way in a task of its own."""

    kind: str
    item: Item | None = None
    ending: Ending | None = None


class QueueProgram(Program):
    """Puts, gets, workers, stops: what ``BoundedQueue`` promises."""

    name = "queue"

    def set_up(self) -> None:
        rng = self.random
        self.timeout = rng.choice((0, 0.125, 1.0, math.inf))
        self.queue: BoundedQueue[Item] = BoundedQueue(
            rng.choice((1, 1, 2, 3, 5)),
            self.timeout,
            SILENT,
            telemetry=rng.choice((None, None, OBSERVED)),
        )
        self.loop.observer = self.model = Model(self.queue, self)
        self.loop.on_thread = self.enter_thread
        self.groups: dict[Callable[[Item], Any], WorkerGroup] = {}
        self.ops: dict[asyncio.Task[Any], Op] = {}
        self.in_hand: list[Item] = []
        self.calm = False
        supply, demand = rng.choice(((1, 0.5), (1, 1), (0.3, 2)))
        self.choices = {
            self.put_soon: 8 * supply,
            self.put_now: 3 * supply,
            self.put_nowait: 3 * supply,
            self.submit_soon: 4 * supply,
            self.cancel_result: rng.choice((0, 0, 2)),
            self.get_soon: rng.choice((0, 2)) * demand,
            self.get_nowait: demand,
            self.process_soon: rng.choice((0, 2)) * demand,
            self.task_done: 2,
            self.serve_and_cancel: 2,
            self.let_in_and_cancel: rng.choice((0, 0, 0.5)),
            self.cancel_some_call: rng.choice((1, 4)),
            self.start_workers: rng.choice((1, 3)),
            self.stop_workers_soon: rng.choice((0, 1)),
            self.stop_soon: rng.choice((0, 0.3, 1)),
            self.start_soon: 0.5,
            self.restart_soon: rng.choice((0, 0.5, 1)),
            self.stop_under_a_block: rng.choice((0, 0, 0.3)),
            self.join_soon: 1,
            self.close: rng.choice((0, 0, 0.3, 1)),
            self.close_and_start: rng.choice((0, 0.5, 1)),
            self.iterate_soon: rng.choice((0, 1)) * demand,
        }
        # From a generator of their own: what is drawn above stays what it was.
        luck = random.Random(f"operator {self.seed}")
        if luck.random() < 0.4:
            self.choices |= {
                self.pause_workers: luck.choice((0, 1, 4)),
                self.pause_for_a_while: luck.choice((0, 1, 4)),
                self.resume: luck.choice((1, 4)),
                self.remove_some: luck.choice((0, 1, 2)),
                self.cancel_a_call: luck.choice((0, 2, 4)),
            }

    def items(self) -> list[Any]:
        return self.model.items

    def forget(self) -> Any:
        queue = self.queue
        self.loop.on_thread = None
        self.model.__dict__.clear()
        self.in_hand.clear()
        self.groups.clear()
        return queue

    # -- the program --------------------------------------------------------------------------

    async def begin(self) -> None:
        rng = self.random
        if rng.random() < 0.9:
            await self.queue.start()
        if rng.random() < 0.6:
            await self.start_workers()

    async def finish(self) -> None:
        """End everything; then a good group takes up what was left, and all must add up."""
        rng, queue, model = self.random, self.queue, self.model
        if rng.random() < 0.5:
            await self.release_all()
        for _ in range(20):
            await self.stop(rng.choice((0, 0.5, 3)), rng.random() < 0.5)
            await self.release_all()
            if self.ops:
                await asyncio.wait([*self.ops], timeout=4)
            if not self.ops and not self.in_hand and queue.status is QueueStatus.STOPPED:
                break
        else:
            model.fail(f"these never end: {[op.kind for op in self.ops.values()]}")
        self.calm = True
        await asyncio.sleep(5)  # those given up are still at it
        if model.attempts:
            model.fail(f"still at it: {[a.item.number for a in model.attempts]}")
        self.check_balance(len(queue.unprocessed))
        left = [item for item in model.items if item.state in ("waiting", "returned")]
        await self.start_workers()
        await self.join()
        if not await queue.stop():
            model.fail("a stop of a queue with nothing in it returned False")
        model.after_step()
        self.check_balance(0)
        for item in left:
            if item.state != "done" and not item.unwanted:
                model.fail(f"item {item.number} was lost: it is {item.state}")
        for item in model.items:
            self.check_result(item)

    def check_balance(self, left: int) -> None:
        metrics = self.queue.metrics
        if metrics["enqueued"] != metrics["processed"] + left:
            self.model.fail(f"{metrics} does not add up with {left} unprocessed")

    def check_result(self, item: Item) -> None:
        future, model = item.future, self.model
        if future is None or future.cancelled():
            return
        if not future.done():
            model.fail(f"item {item.number} is {item.state}, but its future is pending")
        error = future.exception()
        if isinstance(error, QueueStateError):
            if not item.taken_by_get and item.closings == model.closings:
                model.fail(f"item {item.number} was not left by any stop, but {error!r}")
        else:
            outcome = future.result() if error is None else error
            if not any(outcome is o or outcome == o for o in item.outcomes):
                model.fail(f"the future of item {item.number} holds {outcome!r}")

    # -- calls in tasks of their own ----------------------------------------------------------

    def spawn(self, op: Op, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coro)
        self.ops[task] = op
        task.add_done_callback(self._op_ended)
        return task

    def _op_ended(self, task: asyncio.Task[Any]) -> None:
        op = self.ops.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.violation is None:
            self.model.fail(f"{op.kind} raised {error!r}")

    def cancel_one(self, rng: random.Random, kinds: tuple[str, ...] = ()) -> None:
        candidates = [(task, op) for task, op in self.ops.items() if not kinds or op.kind in kinds]
        if candidates:
            self.cancel(*rng.choice(candidates))

    def cancel_some_call(self) -> None:
        self.cancel_one(self.random)

    def cancel(self, task: asyncio.Task[Any], op: Op) -> None:
        if op.item is not None:
            op.item.cancelled_put = True
        if op.ending is not None:
            self.model.ending_cancelled(op.ending)
        self.model.note("cancel", op.kind, "" if op.item is None else op.item.number)
        task.cancel()

    # -- puts ---------------------------------------------------------------------------------

    def make_plans(self) -> list[Plan]:
        """For the first attempt and the second; later ones go well."""
        return [self.make_plan(), self.make_plan() if self.random.random() < 0.3 else OBEDIENT]

    def make_plan(self) -> Plan:
        rng = self.random
        kind = rng.random()
        sleep = rng.choice((None, *MOMENTS))
        if kind < 0.45:
            return Plan(sleep)
        if kind < 0.65:
            return Plan(sleep, error=rng.choice((ItemError, OddError, asyncio.CancelledError)))
        if kind < 0.75:
            return Plan(sleep, puts=rng.choice((0, 0.125)))
        if kind < 0.77:
            return Plan(sleep, stops=True)
        long = rng.choice((1.0, math.inf))
        if kind < 0.85:
            return Plan(long)
        if kind < 0.9:
            return Plan(long, lingers=rng.choice((0.0, 0.25)))
        return Plan(
            long,
            error=rng.choice((None, ItemError)),
            lingers=rng.choice((0.0, 0.25, 0.5, 2.0)),
            ignores_cancellation=True,
        )

    async def put(
        self,
        how: str = "put",
        timeout: float | None = 0,
        plans: list[Plan] | None = None,
        op: Op | None = None,
    ) -> None:
        model, queue = self.model, self.queue
        limit = self.timeout if timeout is None else timeout
        item = model.offered(self.make_plans() if plans is None else plans, limit)
        if op is not None:
            op.item = item
        token = CURRENT.set(item.number)
        try:
            if how == "submit":
                item.future = await queue.submit(item, timeout=timeout)
                accepted = True
            elif timeout is None:
                accepted = await queue.put(item)
            else:
                accepted = await queue.put(item, timeout)
        except QueueFullError:
            accepted = False
        except QueueStateError as error:
            model.not_open(item, error)
            return
        except asyncio.CancelledError:
            model.put_cancelled(item, by_worker=op is None)
            raise
        finally:
            CURRENT.reset(token)
        if accepted is True:
            model.accepted(item)
        elif accepted is False:
            model.refused(item)
        else:
            model.fail(f"put returned {accepted!r}")

    def put_soon(self, how: str = "put") -> None:
        for _ in range(self.random.choice((1, 1, 1, 3))):
            op = Op(how)
            timeout = self.random.choice(TIMEOUTS)
            self.spawn(op, self.put(how, timeout, self.make_plans(), op))

    def submit_soon(self) -> None:
        self.put_soon("submit")

    async def put_now(self) -> None:
        await self.put(op=Op("put"))

    def put_nowait(self) -> None:
        model = self.model
        item = model.offered(self.make_plans(), 0)
        token = CURRENT.set(item.number)
        try:
            self.queue.put_nowait(item)
        except QueueFullError:
            model.refused(item)
        except QueueStateError as error:
            model.not_open(item, error)
        else:
            model.accepted(item)
        finally:
            CURRENT.reset(token)

    def cancel_result(self) -> None:
        pending = [i for i in self.model.items if i.future is not None and not i.future.done()]
        if pending:
            item = self.random.choice(pending)
            assert item.future is not None
            self.model.note("cancel the future of", item.number)
            self.model.unwanted += 1
            item.future.cancel()

    # -- gets ---------------------------------------------------------------------------------

    async def get(self, timeout: float | None) -> None:
        model, queue = self.model, self.queue
        get = model.getting(timeout)
        try:
            item = await queue.get(timeout)
        except QueueEmptyError:
            model.found_nothing(get)
        except QueueStateError as error:
            model.get_not_open(get, error)
        except asyncio.CancelledError:
            model.get_cancelled(get)
            raise
        else:
            model.got(get, item)
            self.in_hand.append(item)

    def get_soon(self) -> None:
        self.spawn(Op("get"), self.get(self.random.choice(TIMEOUTS)))

    def get_nowait(self) -> None:
        model = self.model
        get = model.getting(0)
        try:
            item = self.queue.get_nowait()
        except QueueEmptyError:
            model.found_nothing(get)
        except QueueStateError as error:
            model.get_not_open(get, error)
        else:
            model.got(get, item)
            self.in_hand.append(item)

    def task_done(self) -> None:
        if self.in_hand:
            item = self.in_hand.pop(self.random.randrange(len(self.in_hand)))
            self.queue.task_done()
            self.model.done_by_caller(item)

    async def release_all(self) -> None:
        while self.in_hand:
            self.task_done()
            await self.pause()

    async def process(self, timeout: float | None, sleep: float | None, fails: bool) -> None:
        model, queue = self.model, self.queue
        get = model.getting(timeout)
        try:
            async with queue.processing(timeout) as item:
                model.got(get, item)
                try:
                    if sleep is not None:
                        await asyncio.sleep(sleep)
                except asyncio.CancelledError:
                    model.returned_by_caller(item)
                    raise
                error = ItemError(item.number) if fails else None
                model.done_by_caller(item, error)
                if error is not None:
                    raise error
        except QueueEmptyError:
            model.found_nothing(get)
        except QueueStateError as error:
            model.get_not_open(get, error)
        except asyncio.CancelledError:
            model.get_cancelled(get)
            raise
        except ItemError:
            pass

    def process_soon(self) -> None:
        rng = self.random
        sleep = rng.choice((None, *MOMENTS))
        self.spawn(Op("process"), self.process(rng.choice(TIMEOUTS), sleep, rng.random() < 0.3))

    async def iterate(self, sleeps: list[float | None], last: str) -> None:
        """Take items in a loop, one for each of ``sleeps``, and leave it as ``last`` says."""
        model, queue = self.model, self.queue
        get = model.getting(None)
        try:
            async with aclosing(queue.items()) as items:
                async for item in items:
                    model.got(get, item)
                    try:
                        sleep = sleeps.pop()
                        if sleep is not None:
                            await asyncio.sleep(sleep)
                    except asyncio.CancelledError:
                        model.returned_by_caller(item)
                        raise
                    is_last = not sleeps
                    error = ItemError(item.number) if is_last and last == "raise" else None
                    model.done_by_caller(item, error)
                    if error is not None:
                        raise error
                    if is_last:
                        return
                    get = model.getting(None)
            model.get_not_open(get, QueueClosedError("Cannot get items when queue is closed"))
        except QueueStateError as error:
            model.get_not_open(get, error)
        except asyncio.CancelledError:
            model.get_cancelled(get)
            raise
        except ItemError:
            pass

    def iterate_soon(self) -> None:
        rng = self.random
        sleeps = [rng.choice((None, *MOMENTS)) for _ in range(rng.choice((1, 3, 10)))]
        self.spawn(Op("iterate"), self.iterate(sleeps, rng.choice(("break", "raise"))))

    def serve_and_cancel(self) -> None:
        """Serve some who wait, and cancel one who waits, in the same step."""
        rng = self.random
        if rng.random() < 0.3:
            self.put_nowait()
            self.cancel_one(rng, ("get", "process"))
            return
        if rng.random() < 0.5:
            self.get_soon()
        for _ in range(rng.choice((1, 1, 2, 3))):
            self.get_nowait()
        if rng.random() < 0.5:
            self.put_nowait()
        self.cancel_one(rng, ("put", "submit"))

    async def let_in_and_cancel(self) -> None:
        """Let a waiting put in, line up others before and behind it, and cancel it, in one step."""
        queue = self.queue
        for _ in range(queue.maxsize - queue.size):
            self.put_nowait()
        op = Op("put")
        task = self.spawn(op, self.put("put", math.inf, self.make_plans(), op))
        await asyncio.sleep(0)
        self.get_soon()
        for _ in range(queue.size):
            self.get_nowait()
        self.put_nowait()
        self.cancel(task, op)

    # -- workers ------------------------------------------------------------------------------

    async def start_workers(self) -> None:
        model, queue, rng = self.model, self.queue, self.random
        status = queue.status
        size = rng.choice((1, 1, 2, 4))
        handler_kind = rng.choice(("", "plain", "raises", "async", "async raises"))
        is_plain = rng.random() < 0.2
        group = model.hired(size, bool(handler_kind), is_plain)

        async def in_loop(item: Item) -> int:
            return await self.work(group, item)

        def in_thread(item: Item) -> PutOutcome:
            return PutOutcome(partial(self.leave_thread, item))

        work = in_thread if is_plain else in_loop
        self.groups[work] = group
        try:
            await queue.start_workers(work, size, self.make_handler(handler_kind))
        except QueueStateError:
            if status is not QueueStatus.STOPPING:
                model.fail(f"a queue that was {status.value} refused workers")
        else:
            if status is QueueStatus.STOPPING:
                model.fail("a queue that is stopping took workers")
            model.notice_end()  # it may have been opened again by this
            model.group = group
            model.starts += 1

    async def work(self, group: WorkerGroup, item: Item) -> int:
        """The worker function."""
        model = self.model
        attempt = model.began(item, group)
        plan = self.plan_of(item)
        try:
            if plan.sleep is not None:
                if plan.sleep == math.inf:
                    await self.loop.create_future()
                await asyncio.sleep(plan.sleep)
            if plan.puts is not None:
                await self.put("put", plan.puts, [])
            if plan.stops:
                self.stop_soon()
        except asyncio.CancelledError as error:
            model.cancelled(attempt)
            await self.linger(plan)
            if not plan.ignores_cancellation:
                self.give_up(attempt, error)
                raise
        if plan.error is not None:
            error = plan.error(item.number)
            model.failed(attempt, error)
            raise error
        model.succeeded(attempt)
        return item.number

    def give_up(self, attempt: Attempt, error: BaseException) -> None:
        """The call was cancelled: its item fails, unless its worker is to end as well."""
        task: Any = asyncio.current_task()
        if attempt.is_asked_to_end and not task.worker.cancelled:
            self.model.failed(attempt, error)
        else:
            self.model.dropped(attempt)

    def enter_thread(self, call: partial[Any]) -> None:
        """A worker hands an item to a thread."""
        *_, work, item = call.args
        self.model.began(item, self.groups[work])

    def leave_thread(self, item: Item) -> int:
        """Its worker hears of it."""
        attempt = item.attempt
        assert attempt is not None
        error = self.plan_of(item).error
        if error is not None:
            raised = error(item.number)
            self.model.failed(attempt, raised)
            raise raised
        self.model.succeeded(attempt)
        return item.number

    def plan_of(self, item: Item) -> Plan:
        """What a call does with the item."""
        return item.plans.pop(0) if item.plans and not self.calm else OBEDIENT

    async def linger(self, plan: Plan) -> None:
        """Clean up, whatever happens."""
        if plan.lingers is None:
            return
        until = self.loop.time() + plan.lingers
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(until - self.loop.time())
                return

    def make_handler(self, kind: str) -> Callable[[BaseException, Item], Any] | None:
        model = self.model
        error = self.random.choice((ItemError, OddError, asyncio.CancelledError))
        seconds = self.random.choice(MOMENTS)

        def plain(exc: BaseException, item: Item) -> None:
            model.settled(model.handled(item, exc))
            if kind == "raises":
                raise error

        async def slow(exc: BaseException, item: Item) -> None:
            attempt = model.handled(item, exc)
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                model.cancelled(attempt)
                model.dropped(attempt)
                raise
            model.settled(attempt)
            # While its worker is being cancelled, a CancelledError of its own would pass for that.
            if kind == "async raises" and attempt.cancelled_at is None:
                raise error

        if not kind:
            return None
        return slow if kind.startswith("async") else plain

    async def stop_workers(self, timeout: float | None, op: Op) -> None:
        model = self.model
        op.ending = ending = model.ending("stop_workers", timeout)
        model.group = None
        model.rough += 1
        before = [*model.attempts]
        try:
            await self.queue.stop_workers(timeout)
        finally:
            model.notice_all()  # before the reason for it is over
            model.ended(ending)
        for attempt in before:
            if attempt in model.attempts and not attempt.given_up:
                model.fail(f"stop_workers left a worker with item {attempt.item.number}")

    def stop_workers_soon(self) -> None:
        op = Op("stop_workers")
        self.spawn(op, self.stop_workers(self.random.choice((None, 0, 0.25, 1.0)), op))

    # -- what an operator does ----------------------------------------------------------------

    def pause_workers(self) -> None:
        queue, model = self.queue, self.model
        model.notice_end()
        status, is_closed = queue.status, queue.is_closed
        try:
            queue.pause()
        except QueueStateError as error:
            if isinstance(error, QueueClosedError) is not (is_closed and status == "processing"):
                model.fail(f"{error!r} from a queue that was {status.value}, closed: {is_closed}")
            if status is QueueStatus.PROCESSING and not is_closed:
                model.fail(f"{error!r} from a queue that was processing")
        else:
            model.paused()

    async def pause_for_a_while(self) -> None:
        """Have workers that wait, and something to take when the pause ends."""
        self.pause_workers()
        for _ in range(self.random.choice((0, 1, 2))):
            self.put_nowait()
        await asyncio.sleep(self.random.choice(MOMENTS))
        self.resume()

    def resume(self) -> None:
        queue, model = self.queue, self.model
        status = queue.status
        try:
            queue.resume()
        except QueueStateError as error:
            if status is QueueStatus.PROCESSING:
                model.fail(f"{error!r} from a queue that was processing")
        else:
            model.resumed()

    def remove_some(self) -> None:
        queue, model = self.queue, self.model
        model.notice_all()
        wanted = [item for item in model.waiting if not item.unwanted]
        if self.random.random() < 0.3:
            model.removed(wanted, queue.clear(), is_all=True)
        else:
            some = [item for item in wanted if item.number % 3 == 0]
            model.removed(some, queue.remove(lambda item: item.number % 3 == 0), is_all=False)

    def cancel_a_call(self) -> None:
        """Of a function, and not of an error handler."""
        model = self.model
        held = [
            (one, attempt)
            for one in self.queue.in_hand()
            if (attempt := one.item.attempt) is not None
            and attempt in model.attempts
            and not attempt.group.is_plain
            and attempt.error is None
        ]
        if held:
            one, attempt = self.random.choice(held)
            model.is_asked_to_end(attempt)
            if not one.cancel():
                model.fail(f"item {one.item.number} is in hand, and was not cancelled")

    # -- lifecycle ----------------------------------------------------------------------------

    async def stop(self, timeout: float | None, drain: bool, op: Op | None = None) -> None:
        model, queue = self.model, self.queue
        ending = model.ending(f"stop, drain {drain}", timeout)
        if op is not None:
            op.ending = ending
        status = queue.status
        # The workers of a closed queue may have left before something was given back.
        has_crew = (
            status is QueueStatus.PROCESSING and model.group is not None and not queue.is_closed
        )
        if status is QueueStatus.PROCESSING:
            model.closings += 1
            model.group = None
            model.is_stopped(drain=drain)
        if timeout is not None or not drain:
            model.rough += 1
        is_rough = timeout is not None or not drain or len(model.endings) > 1
        starts, rough = model.starts, model.rough
        is_last_word = not model.starting
        clean = None
        try:
            clean = await queue.stop(timeout, drain=drain)
        finally:
            model.ended(ending)
            is_last_word = is_last_word and model.starts == starts
            if is_last_word and queue.status is not QueueStatus.STOPPED:
                model.fail(f"stop ended, but the queue is {queue.status.value}")
        if not is_last_word:
            return
        left = len(queue.unprocessed)
        if clean is not (left == 0):
            model.fail(f"stop returned {clean}, but {left} items are unprocessed")
        if has_crew and not is_rough and model.rough == rough and left:
            model.fail(f"stop had all the time it wanted, but {left} items are unprocessed")

    def stop_soon(self) -> None:
        for _ in range(self.random.choice((1, 1, 2))):
            op = Op("stop")
            timeout = self.random.choice((None, None, 0, 0.25, 1.0))
            self.spawn(op, self.stop(timeout, self.random.random() < 0.7, op))

    async def start(self) -> None:
        model, queue = self.model, self.queue
        model.starts += 1
        model.starting += 1
        try:
            await queue.start()
        finally:
            model.starting -= 1
        if queue.status is not QueueStatus.PROCESSING or queue.is_closed:
            model.fail(f"start ended, but the queue is {queue.status.value}")

    def close(self) -> None:
        self.model.closing()
        self.queue.close()

    async def close_and_start(self) -> None:
        """Have somebody wait, then close, take what is left, and start in one step or two."""
        rng = self.random
        waits = (self.get_soon, self.iterate_soon, self.join_soon, self.put_soon)
        for wait in rng.choices(waits, k=2):
            wait()
        await asyncio.sleep(0)
        self.close()
        if rng.random() < 0.5:
            for _ in range(self.queue.size):
                self.get_nowait()
            while self.in_hand and rng.random() < 0.9:
                self.task_done()
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        if rng.random() < 0.7:
            self.start_soon()
            if rng.random() < 0.5:
                self.get_soon()

    def start_soon(self) -> None:
        self.spawn(Op("start"), self.start())

    async def restart_soon(self) -> None:
        """Have somebody wait, then stop, start and cancel in one step or two."""
        rng = self.random
        for wait in rng.choices((self.get_soon, self.process_soon, self.join_soon), k=2):
            wait()
        await asyncio.sleep(0)
        self.stop_soon()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        if rng.random() < 0.6:
            self.start_soon()
            if rng.random() < 0.5:
                self.get_soon()
                self.put_soon()
        if rng.random() < 0.5:
            self.cancel_one(rng, ("process",))

    async def stop_under_a_block(self) -> None:
        """Take what is there, stop, and cancel one of those who took it."""
        for _ in range(self.queue.size + 1):
            self.spawn(Op("process"), self.process(0, 2.0, fails=False))
        await asyncio.sleep(0)
        self.join_soon()
        op = Op("stop")
        self.spawn(op, self.stop(0, True, op))
        await asyncio.sleep(0.125)
        self.cancel_one(self.random, ("process",))

    async def join(self) -> None:
        join = self.model.joining()
        try:
            await self.queue.join()
        except QueueStateError:
            self.model.join_failed(join)
        except asyncio.CancelledError:
            raise
        else:
            self.model.joined(join)
        finally:
            self.model.joins.discard(join)

    def join_soon(self) -> None:
        self.spawn(Op("join"), self.join())
