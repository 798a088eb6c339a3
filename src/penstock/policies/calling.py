"""Calls under a policy that are made in the caller's own task or thread, without a queue."""

from __future__ import annotations

import asyncio
import inspect
import time
from asyncio import _get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from types import FunctionType
from typing import Any, NoReturn, Protocol

from penstock._util import checks
from penstock._util.functions import is_async
from penstock._util.notebooks import advice, blocks_loop
from penstock.errors import QueueStateError
from penstock.limits.retry import note_attempts
from penstock.policies.item_state import (
    ItemRunner,
    ItemState,
    NotBegun,
    ObservedState,
    PolicyScope,
)
from penstock.policies.observed_attempts import ObservedAttempts

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class CallRunner(ItemRunner, Protocol):
    """What a call needs of a :class:`penstock.Policy`, beside what a queue needs."""

    attempt_timeout: float | None

    def attempt(self, state: ItemState) -> AbstractContextManager[None]: ...


class PolicyCall:
    """One call of a function under a policy: attempts, and the waits between them."""

    def __init__(
        self,
        policy: CallRunner,
        scope: PolicyScope,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        item: Any,
    ) -> None:
        self._policy = policy
        self._func = func
        self._args = args
        self._kwargs = kwargs
        self._item = item
        is_observed = scope.observer.is_enabled()
        self._state = ObservedState(scope) if is_observed else ItemState(scope)
        policy.prepare(self._state, item, None)
        self._observed = scope.observer.on_item() if is_observed else None
        self._attempts = None if self._observed is None else ObservedAttempts(self._observed)

    def start(self) -> Any:
        """What the call is for its caller: a coroutine of an async function, or else the result."""
        return self._run_async() if is_async(self._func) else self._run()

    # -- in an event loop -----------------------------------------------------------------------

    async def _run_async(self, first: Awaitable[Any] | None = None) -> Any:
        """``first``: what the first attempt is to await, where the function was called already."""
        policy, state, item = self._policy, self._state, self._item

        async def call(item: Any) -> Any:
            nonlocal first
            awaitable, first = first, None
            return await (
                self._func(*self._args, **self._kwargs) if awaitable is None else awaitable
            )

        try:
            while True:
                try:
                    if self._observed is None:
                        return await policy.run(state, call, item)
                    self._check_refusal()
                    if not policy.admit(state, item):
                        with self._observed.wait():
                            await policy.wait(state, item)
                    with self._attempt_observed():
                        return await policy.run(state, call, item)
                except Exception as error:
                    delay = self._after(error)
                    if delay is None:
                        raise
                await asyncio.sleep(delay)
        finally:
            if isinstance(first, Coroutine):
                first.close()  # or Python warns that it was never awaited

    # -- in a thread, or in the middle of an event loop -----------------------------------------

    def _run(self) -> Any:
        while True:
            try:
                return self._attempt()
            except NotBegun as raised:
                return self._run_async(raised.awaitable)
            except Exception as error:
                delay = self._after(error)
                if delay is None:
                    raise
                if delay and blocks_loop():
                    self._refuse_to_wait(error)
            time.sleep(delay)

    def _attempt(self) -> Any:
        policy, state, item = self._policy, self._state, self._item
        self._check_refusal()
        if not policy.admit(state, item):
            if blocks_loop():
                self._admit_without_waiting()
            else:
                policy.wait_blocking(state, item)
        with self._attempt_observed(), policy.attempt(state):
            result = self._func(*self._args, **self._kwargs)
            if inspect.isawaitable(result):
                if _get_running_loop() is None:
                    self._refuse_awaitable(result)
                raise NotBegun(result)
            _refuse_generator(result)
            return result

    def _admit_without_waiting(self) -> None:
        """Admit it, in an event loop that may not be held up."""
        waiting = self._policy.wait(self._state, self._item)
        try:
            waiting.send(None)
        except StopIteration:
            return
        waiting.close()
        self._refuse_to_wait(None)

    def _refuse_to_wait(self, error: Exception | None) -> NoReturn:
        raise QueueStateError(
            f"{checks.shown(self._func)} would wait here, and block the event loop that "
            "runs in this thread: call it with asyncio.to_thread, or make it an async function"
            f"{advice()}"
        ) from error

    def _refuse_awaitable(self, result: Any) -> NoReturn:
        if isinstance(result, Coroutine):
            result.close()
        raise TypeError(
            f"{checks.shown(self._func)} returned an awaitable, and no event loop runs in this "
            "thread: make the call in a coroutine"
        )

    # -- both -----------------------------------------------------------------------------------

    def _check_refusal(self) -> None:
        """Raise why there is no other attempt, if that was known after the last one."""
        if self._state.refusal is not None:
            raise self._state.refusal

    def _attempt_observed(self) -> AbstractContextManager[object]:
        return nullcontext() if self._attempts is None else self._attempts.block(self._state)

    def _after(self, error: Exception) -> float | None:
        """Seconds until another attempt; None: ``error`` is final."""
        delay: float | None = None
        try:
            delay = self._policy.after(self._state, error)
        except BaseException as broken:
            note_attempts(broken, self._state.attempts)
            raise
        finally:
            if self._attempts is not None:
                self._attempts.ended(error, delay)
        if delay is None:
            note_attempts(error, self._state.attempts, self._state.why)
        return delay


def check_func(func: Any, attempt_timeout: float | None) -> None:
    """Raise ``TypeError`` for what cannot be called under a policy."""
    is_function = type(func) is FunctionType
    if is_function and attempt_timeout is None and not func.__code__.co_flags & _GENERATOR:
        return  # of most calls, and each call asks
    if isinstance(func, (staticmethod, classmethod)):
        raise TypeError(
            f"the policy must stand below @{type(func).__name__}, got {checks.shown(func)}"
        )
    checks.plain_callable(func, "func")
    check_timeout(func, attempt_timeout)


def check_timeout(func: Any, attempt_timeout: float | None) -> None:
    """Raise ``TypeError`` for a plain function where attempts have a timeout."""
    if attempt_timeout is not None and not is_async(func):
        raise TypeError(
            "attempt_timeout is for async functions, since a plain one cannot be cancelled: "
            f"got {checks.shown(func)}"
        )


def decorated(
    func: Callable[..., Any],
    start: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
) -> Callable[..., Any]:
    """A function with the signature of ``func`` that calls ``start(item, args, kwargs)``.

    The item is the first argument, and of a method the first after ``self``.
    """
    name, place = _item_of(func)

    def item_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[place] if len(args) > place else kwargs.get(name)

    if is_async(func):

        @wraps(func)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await start(item_of(args, kwargs), args, kwargs)

        return call_async

    @wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        return start(item_of(args, kwargs), args, kwargs)

    return call


def _item_of(func: Callable[..., Any]) -> tuple[str, int]:
    """The name and the place of the argument that is the item."""
    try:
        names = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return "", 0
    # It is not known to be a method before it is one: a class body holds plain functions.
    around = getattr(func, "__qualname__", "").rpartition(".")[0]
    in_class = bool(around) and not around.endswith("<locals>")
    is_method = in_class and names[:1] in (["self"], ["cls"])
    return (names[is_method] if len(names) > is_method else ""), int(is_method)


def _refuse_generator(result: Any) -> None:
    if isinstance(result, (Generator, AsyncGenerator)):
        if isinstance(result, Generator):
            result.close()
        raise TypeError(
            f"a function under a policy must not be a generator, got {checks.shown(result)}: "
            "its code would run later, without the policy"
        )
