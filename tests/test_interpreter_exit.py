"""What is still there when the interpreter ends, and is collected after modules were emptied."""

from __future__ import annotations

import re
from textwrap import dedent, indent

import pytest

from sync.helpers import run_program

pytestmark = pytest.mark.real_time

#: Bodies of functions that return what is to be collected last.
PROGRAMS = {
    "a queue": """
        return penstock.WorkQueue()
    """,
    "a queue that was not stopped": """
        queue = penstock.WorkQueue()
        async def main():
            await queue.start()
            await queue.put(1)
        asyncio.run(main())
        return queue
    """,
    "a queue of threads": """
        queue = penstock.sync.WorkQueue()
        queue.process(str)
        queue.put(1)
        return queue
    """,
    "a loop thread": """
        thread = penstock.sync.LoopThread()
        thread.start()
        return thread
    """,
    "a transport that was not closed": """
        service = httpx.MockTransport(lambda request: httpx.Response(204))
        transport = penstock.httpx.PolicyTransport(transport=service)
        client = httpx.AsyncClient(transport=transport)
        asyncio.run(client.get("http://example.com"))
        return transport
    """,
    "a response that was not read": """
        class Text(httpx.SyncByteStream):
            def __iter__(self):
                yield b"text"
        service = httpx.MockTransport(lambda request: httpx.Response(200, stream=Text()))
        transport = penstock.httpx.SyncPolicyTransport(transport=service)
        return transport.handle_request(httpx.Request("GET", "http://example.com")).stream
    """,
}

#: ``os`` is emptied late, and those of penstock before it, for nobody can collect them first.
PROGRAM = """
import asyncio, os, sys
import httpx, penstock, penstock.httpx, penstock.sync

def make():{body}
os.kept = make()
os.modules = [module for name, module in sys.modules.items() if name.startswith("penstock")]
"""


@pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_collected_last_needs_no_module(body: str) -> None:
    outcome = run_program(PROGRAM.format(body=indent(dedent(body), " " * 4)))
    # Of items that nobody will do any more a queue tells; of a module that is gone, nobody.
    told = re.sub(r"(?m)^<BoundedQueue .*> was not stopped: .*\n", "", outcome.stderr)
    assert told == ""
    assert outcome.returncode == 0
