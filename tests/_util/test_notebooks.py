"""Blocking calls in a notebook: in a kernel of the tests' own, and in a real one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pages import DOCS, blocks
from penstock import BoundedQueue, Limit, Limiter, QueueStateError
from penstock.sync import WorkQueue
from sync.helpers import BOUND, eventually, in_thread


@pytest.fixture
def handle_message(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A coroutine function of a module by the name of ipykernel's, which makes a call."""
    module = types.ModuleType("ipykernel.kernelbase")
    exec("async def handle_message(call):\n    return call()", vars(module))
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    handle: Callable[..., Coroutine[Any, Any, Any]] = module.handle_message
    return handle


def put_get_and_join(inner: BoundedQueue[str] | None = None) -> str:
    with WorkQueue[str](1) if inner is None else WorkQueue[str](queue=inner) as queue:
        assert queue.put("a") is True
        assert queue.put("b", timeout=0) is False
        taken = queue.get()
        queue.task_done()
        assert queue.join(BOUND) is True
    return taken


class TestACell:
    def test_what_the_kernel_calls_may_block(self, handle_message: Any) -> None:
        assert asyncio.run(handle_message(put_get_and_join)) == "a"

    def test_so_may_calls_of_another_kind_of_queue(self, handle_message: Any) -> None:
        inner: BoundedQueue[str] = BoundedQueue(1)
        assert asyncio.run(handle_message(lambda: put_get_and_join(inner))) == "a"

    def test_a_task_that_it_started_may_not(self, handle_message: Any) -> None:
        async def in_background() -> None:
            put_get_and_join()

        async def main() -> None:
            task = await handle_message(lambda: asyncio.create_task(in_background()))
            with pytest.raises(QueueStateError, match="in a cell without await"):
                await task

        asyncio.run(main())

    def test_nor_a_callback(self, handle_message: Any) -> None:
        outcomes: list[BaseException] = []

        def callback() -> None:
            with pytest.raises(QueueStateError, match="in a cell without await") as caught:
                put_get_and_join()
            outcomes.append(caught.value)

        async def main() -> None:
            await handle_message(lambda: asyncio.get_running_loop().call_soon(callback))
            await asyncio.sleep(0)

        asyncio.run(main())
        assert len(outcomes) == 1

    def test_nor_another_thread_of_the_kernel(self, handle_message: Any) -> None:
        def run() -> None:
            assert threading.current_thread() is not threading.main_thread()
            asyncio.run(handle_message(put_get_and_join))

        with pytest.raises(QueueStateError, match="running event loop"):
            in_thread(run).result(BOUND)

    def test_a_stopped_queue_says_that_it_is_stopped(self, handle_message: Any) -> None:
        queue = WorkQueue[str]()
        for call in (lambda: queue.put("a"), queue.get, lambda: queue.submit("a")):
            with pytest.raises(QueueStateError, match="when queue is idle"):
                asyncio.run(handle_message(call))

    def test_a_limiter_may_be_waited_for(self, handle_message: Any) -> None:
        limiter = Limiter([Limit(1, per=3600)])
        asyncio.run(handle_message(limiter.acquire_blocking))
        with pytest.raises(TimeoutError):
            asyncio.run(handle_message(lambda: limiter.acquire_blocking(timeout=0.001)))


def test_elsewhere_a_refusal_does_not_speak_of_notebooks() -> None:
    async def main() -> None:
        with pytest.raises(QueueStateError, match="running event loop") as caught:
            WorkQueue[str]().start()
        assert "notebook" not in str(caught.value)

    asyncio.run(main())


# -- a real kernel --------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of a cell."""

    printed: str = ""
    error: str = ""


class Kernel:
    """A kernel of Jupyter, and the client of a notebook."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.manager import KernelManager

        self._waits = folder / "waits"
        self._manager = KernelManager(
            kernel_name="python3", connection_file=str(folder / "kernel.json"), ip="127.0.0.1"
        )
        self._manager.start_kernel(
            env={**os.environ, "IPYTHONDIR": str(folder), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        )
        self._client = self._manager.client()
        self._client.start_channels()

    def wait_until_ready(self) -> None:
        self._client.wait_for_ready(timeout=BOUND)

    def run(self, code: str) -> Outcome:
        """Run a cell."""
        return self._outcome_of(self._client.execute(code, allow_stdin=False))

    def run_and_interrupt(self, code: str, when: str) -> Outcome:
        """Run a cell; interrupt the kernel when the expression ``when`` is true in it."""
        code = f"touch_when({str(self._waits)!r}, lambda: {when})\n{code}"
        cell = self._client.execute(code, allow_stdin=False)
        eventually(self._waits.exists)
        self._waits.unlink()
        self._manager.interrupt_kernel()
        return self._outcome_of(cell)

    def _outcome_of(self, cell: str) -> Outcome:
        outcome = Outcome()
        while True:
            message = self._client.get_iopub_msg(timeout=BOUND)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind == "stream":
                outcome.printed += content["text"]
            elif kind == "error":
                outcome.error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return outcome

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send a message that is no cell, as widgets do."""
        self._client.shell_channel.send(self._client.session.msg(kind, content))

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    for module in ("ipykernel", "jupyter_client"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which `make test-servers` installs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        kernel = Kernel(tmp_path_factory.mktemp("kernel"))
        try:
            kernel.wait_until_ready()
            outcome = kernel.run(PRELUDE)
            assert not outcome.error
            yield kernel
        finally:
            kernel.close()


PRELUDE = """
import asyncio, math, pathlib, threading, time
import penstock, penstock.sync

def touch_when(path, condition):
    def run():
        while not condition():
            time.sleep(0.001)
        time.sleep(0.05)  # until the main thread waits, or it is interrupted a little earlier
        pathlib.Path(path).touch()
    threading.Thread(target=run).start()
"""


@pytest.mark.slow
class TestARealKernel:
    def test_process_put_and_join(self, kernel: Kernel) -> None:
        outcome = kernel.run("""
done = []
with penstock.sync.WorkQueue(maxsize=2) as queue:
    queue.process(done.append, 2)
    for number in range(20):
        assert queue.put(number, timeout=math.inf)
    assert queue.join(60)
print(sorted(done) == list(range(20)), queue.metrics["processed"])
""")
        assert outcome.error == ""
        assert outcome.printed == "True 20\n"

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_map_batch_process_and_submit(self, kernel: Kernel, kind: str) -> None:
        outcome = kernel.run(f"""
{kind} work(n):
    return n * n

queue = penstock.sync.WorkQueue(maxsize=2)
print(list(queue.map(work, range(5))))
queue.batch_process(range(5), work)
with queue:
    queue.process(work)
    print(queue.submit(7).result(), queue.submit(8).exception())
print(queue.metrics["processed"])
""")
        assert outcome.error == ""
        assert outcome.printed == "[0, 1, 4, 9, 16]\n49 None\n12\n"

    @pytest.mark.parametrize(
        ("call", "waits"),
        [
            ("queue.get()", "True"),
            ("queue.put('c', timeout=math.inf)", "queue.statistics().waiting_putters"),
            ("queue.submit('c', timeout=math.inf)", "queue.statistics().waiting_putters"),
            ("queue.join()", "True"),
            ("future.result()", "True"),
        ],
    )
    def test_an_interrupt_gets_out_and_the_next_cell_goes_on(
        self, kernel: Kernel, call: str, waits: str
    ) -> None:
        is_get = call == "queue.get()"
        assert not kernel.run("queue = penstock.sync.WorkQueue(1); queue.start()").error
        if not is_get:
            assert not kernel.run("future = queue.submit('a')").error
        outcome = kernel.run_and_interrupt(call, waits)
        assert outcome.error.startswith("KeyboardInterrupt")
        outcome = kernel.run(
            "done = []\n"
            "queue.process(done.append)\n"
            "queue.put('b', timeout=math.inf), queue.join(60), queue.stop()\n"
            "print(done)"
        )
        assert outcome.error == ""
        assert outcome.printed == ("['b']\n" if is_get else "['a', 'b']\n")

    def test_leaving_a_block_by_an_interrupt_stops_the_queue(self, kernel: Kernel) -> None:
        assert not kernel.run("queue = penstock.sync.WorkQueue()").error
        outcome = kernel.run_and_interrupt(
            """
with queue:
    queue.put("a")
    queue.join()
""",
            "queue.size",
        )
        assert outcome.error.startswith("KeyboardInterrupt")
        outcome = kernel.run("print(queue.status, queue.unprocessed)")
        assert outcome.printed == "QueueStatus.STOPPED ['a']\n"

    def test_the_async_queue_in_a_cell_with_await(self, kernel: Kernel) -> None:
        outcome = kernel.run("""
async def double(number):
    return 2 * number

async with penstock.WorkQueue() as queue:
    await queue.process(double)
    print(await (await queue.submit(4)), [result async for result in queue.map(double, [1, 2])])
""")
        assert outcome.error == ""
        assert outcome.printed == "8 [2, 4]\n"

    def test_blocking_in_a_cell_with_await_is_refused(self, kernel: Kernel) -> None:
        outcome = kernel.run("""
await asyncio.sleep(0)
penstock.sync.WorkQueue().start()
""")
        assert outcome.error.startswith("QueueStateError: Cannot call start() in a running event")
        assert outcome.error.endswith("In a notebook, call it in a cell without await")

    def test_blocking_in_a_task_of_a_cell_is_refused(self, kernel: Kernel) -> None:
        outcome = kernel.run("""
async def background():
    penstock.sync.WorkQueue().start()

task = asyncio.create_task(background())
""")
        assert outcome.error == ""
        outcome = kernel.run("await task")
        assert outcome.error.startswith("QueueStateError: Cannot call start() in a running event")

    def test_a_handler_of_a_widget_may_block(self, kernel: Kernel) -> None:
        assert not kernel.run("""
def on_open(comm, message):
    handled.put(message["content"]["data"])

handled = penstock.sync.WorkQueue()
handled.start()
get_ipython().kernel.comm_manager.register_target("button", on_open)
""").error
        kernel.send("comm_open", {"comm_id": "b1", "target_name": "button", "data": {"clicks": 1}})
        outcome = kernel.run("print(handled.get(60)); handled.task_done(); print(handled.stop())")
        assert outcome.error == ""
        assert outcome.printed == "{'clicks': 1}\nTrue\n"

    def test_a_limiter_for_threads(self, kernel: Kernel) -> None:
        outcome = kernel.run("""
limiter = penstock.Limiter([penstock.Limit(1, per=3600)])
with limiter:
    print("first")
""")
        assert (outcome.error, outcome.printed) == ("", "first\n")
        outcome = kernel.run_and_interrupt(
            "limiter.acquire_blocking()", "limiter.statistics().waiting"
        )
        assert outcome.error.startswith("KeyboardInterrupt")
        outcome = kernel.run("print(limiter.statistics().waiting)")
        assert outcome.printed == "0\n"

    def test_a_client_of_http_for_threads(self, kernel: Kernel) -> None:
        pytest.importorskip("httpx")
        outcome = kernel.run("""
import http.server, httpx
from penstock.httpx import SyncPolicyTransport

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever).start()
try:
    with httpx.Client(transport=SyncPolicyTransport(), trust_env=False) as client:
        print(client.get(f"http://127.0.0.1:{server.server_port}/").text)
finally:
    server.shutdown()
    server.server_close()
""")
        assert outcome.error == ""
        assert outcome.printed == "ok\n"

    def test_what_the_documentation_shows(self, kernel: Kernel) -> None:
        page = blocks(DOCS / "how-to/threads.md")
        cell = next(block for block in page if "works in a notebook only" in block.comment)
        before, output = page[cell.number - 3], page[cell.number - 2]
        outcome = kernel.run(before.code)
        assert (outcome.error, outcome.printed) == ("", output.code)
        assert kernel.run(cell.code).error == ""
