"""An asynchronous queue, used from threads."""

from __future__ import annotations

from unittest.mock import Mock
from unittest.mock import call as calling

import pytest

from penstock import BoundedQueue, QueueFullError, QueueStateError, QueueStatus
from penstock.sync import WorkQueue


async def double(item: int) -> int:
    return item * 2


class TestAnotherKindOfQueue:
    def test_it_is_used_in_the_loop_thread(self) -> None:
        inner: BoundedQueue[int] = BoundedQueue(2, name="inner")
        done: list[int] = []
        queue: WorkQueue[int] = WorkQueue(queue=inner, concurrency_limit=2)
        assert queue.queue is inner
        assert queue.name == "inner"
        with queue:
            assert queue.put(1) is True
            queue.put_nowait(2)
            assert queue.put(3, timeout=0) is False
            with pytest.raises(QueueFullError):
                queue.put_nowait(3)
            assert queue.get() == 1
            queue.task_done()
            assert queue.get_nowait() == 2
            assert queue.join(timeout=0.01) is False
            queue.task_done()
            assert queue.join() is True
            queue.process(done.append)
            queue.batch_process(range(10), done.append)
            for call in (lambda: queue.submit(1), lambda: queue.map(print, [1])):
                with pytest.raises(TypeError, match="can return results"):
                    call()
        assert sorted(done) == list(range(10))
        assert queue.status == "stopped"
        assert queue.stop(timeout=1, drain=False) is True

    def test_it_gets_just_what_was_given(self) -> None:
        mock = Mock(spec=BoundedQueue, status=QueueStatus.IDLE)
        queue: WorkQueue[str] = WorkQueue(queue=mock)
        mock.get.return_value = "taken"
        mock.stop.return_value = False
        mock.redrive.return_value = 3

        queue.put("a")
        queue.put("b", timeout=0)
        queue.put("c", 2.5, deadline=5)
        assert mock.put.await_args_list == [
            calling("a"),
            calling("b", timeout=0),
            calling("c", timeout=2.5, deadline=5),
        ]
        queue.put_nowait("a")
        queue.put_nowait("b", deadline=5)
        assert mock.put_nowait.call_args_list == [calling("a"), calling("b", deadline=5)]
        assert queue.get() == queue.get(timeout=0) == "taken"
        assert mock.get.await_args_list == [calling(), calling(timeout=0)]
        assert queue.redrive(7) == 3
        mock.redrive.assert_awaited_once_with(timeout=7)
        assert queue.stop() is False
        assert queue.stop(5, drain=False) is False
        assert mock.stop.await_args_list == [calling(timeout=None), calling(timeout=5, drain=False)]
        queue.process(double, 7, print)
        mock.start_workers.assert_awaited_once_with(
            worker_func=double, num_workers=7, error_handler=print
        )
        with pytest.raises(ValueError, match="timeout must be zero or more"):
            queue.join(timeout=-1)
        mock.join.assert_not_called()

    @pytest.mark.real_time
    async def test_it_blocks_no_loop(self) -> None:
        queue: WorkQueue[int] = WorkQueue(queue=BoundedQueue())
        for call in (queue.start, queue.join, lambda: queue.put(1)):
            with pytest.raises(QueueStateError, match="running event loop"):
                call()
