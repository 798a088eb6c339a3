"""The futures of items, in threads."""

from __future__ import annotations

import concurrent.futures

import pytest

from penstock import QueueFullError, QueueStateError
from penstock.sync import WorkQueue
from sync.helpers import BOUND, KINDS, Held, eventually, kind_of


def test_a_worker_waits_for_results_of_its_own_queue_with_a_timeout_only() -> None:
    with WorkQueue[int](10) as queue:

        def work(item: int) -> int:
            if item == 0:
                return 0
            future = queue.submit(item - 1)
            if item == 3:
                return int(future.result())
            return 1 + int(future.result(BOUND))

        queue.process(work, 4)
        assert queue.submit(2).result(BOUND) == 2
        with pytest.raises(QueueStateError, match="nobody would be left"):
            queue.submit(3).result(BOUND)


class TestFutures:
    def test_one_cancelled_while_its_item_waits_skips_it(self) -> None:
        with WorkQueue[str]() as queue:
            held = Held()
            queue.process(held)
            first, second, third = (queue.submit(item) for item in "abc")
            eventually(lambda: held.began == ["a"])
            assert second.cancel() is True
            assert first.cancel() is False  # it runs already
            with pytest.raises(concurrent.futures.TimeoutError):
                third.result(timeout=0.01)
            held.may_go_on.set()
            assert third.result(BOUND) == "c"
            assert queue.join(BOUND)
            assert held.done == ["a", "c"]
            assert queue.metrics["processed"] == 3

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_exception_has_its_traceback(self, kind: str) -> None:
        def fails_here(item: str) -> None:
            raise KeyError(item)

        with WorkQueue[str]() as queue:
            queue.process(kind_of(kind, fails_here))
            error = queue.submit("a").exception(BOUND)
        names = []
        assert error is not None
        traceback = error.__traceback__
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert "fails_here" in names

    def test_what_is_cancelled_in_an_unstarted_pool_is_no_longer_unprocessed(self) -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.start()
        unwanted, wanted = queue.submit("a"), queue.submit("b")
        unwanted.cancel()
        assert queue.unprocessed == ["b"]
        assert queue.stop() is False
        with pytest.raises(QueueStateError):
            wanted.result(BOUND)
        assert queue.unprocessed == ["b"]

    def test_a_full_queue_raises(self) -> None:
        with WorkQueue[str](1) as queue:
            queue.submit("a")
            with pytest.raises(QueueFullError):
                queue.submit("b", timeout=0)
            assert queue.get() == "a"
            queue.task_done()
