"""Several clients are as good as one."""

from __future__ import annotations

import threading
from typing import Any

import pytest


@pytest.mark.parametrize("concurrency", [1, 8, 20])
def test_as_many_requests_at_once_as_were_asked_for_and_no_more(
    penstock: Any, server: Any, concurrency: int
) -> None:
    lock = threading.Lock()
    together = threading.Barrier(concurrency)
    inside = most = 0

    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(90)  # each waits for all others
        with lock:
            inside -= 1
        return 200, {}, b""

    server.answer = answer
    lines = penstock.lines(*({"path": f"/{n}"} for n in range(3 * concurrency)))
    options = ("--url", server.url, "--out", "-", "--concurrency", str(concurrency))
    done = penstock.run("run", lines, *options)
    assert done.returncode == 0, done.stderr
    assert most == concurrency
