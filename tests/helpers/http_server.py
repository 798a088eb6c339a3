"""A server that answers as the test says, and tells what came when, and how much at once."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Seconds after which something that should have happened has not.
BOUND = 60.0


def forget(things: list[Any]) -> None:
    """Let go of them, and have Python collect them."""
    things.clear()
    gc.collect()


def most_within(seconds: float, answers: Iterable[Any]) -> int:
    """The most requests that started in any window so long, as their limit has counted them.

    When they arrive is another thing: some may be on their way for longer than others.
    """
    times = [answer.extensions["penstock_permit"]._records[0].at for answer in answers]
    return max(sum(start <= at < start + seconds for at in times) for start in times)


class InThrees:
    """Answers when three requests are there: to no more and no less at once."""

    def __init__(self) -> None:
        self._together = threading.Barrier(3)

    def __call__(self, seen: Seen) -> Answer:
        return Answer(body=self.chunks())

    def chunks(self) -> Iterator[bytes]:
        yield b"first "
        self._together.wait(BOUND)
        yield b"second"


@dataclass
class Seen:
    """A request that came."""

    number: int
    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is answered: ``body`` as it is, or in chunks as they come."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b"fine"


class Held:
    """An answer whose second chunk waits until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def __call__(self, seen: Seen) -> Answer:
        return Answer(body=self.chunks())

    def chunks(self) -> Iterator[bytes]:
        yield b"first "
        assert self.may_go_on.wait(BOUND)
        yield b"second"


class Server(ThreadingHTTPServer):
    """Listens on the loopback interface."""

    daemon_threads = True
    request_queue_size = 512  # or connections that come at once are a second late

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer: Callable[[Seen], Answer | None] = lambda seen: Answer()
        self.seen: list[Seen] = []
        #: Whether it closes each connection after an answer, without having said so.
        self.hangs_up = False
        self.inflight = self.most_inflight = 0
        self.news = threading.Condition()

    @contextmanager
    def serving(self) -> Iterator[Server]:
        thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            with self:
                yield self
                self.shutdown()
        finally:
            thread.join(BOUND)

    def wait_for(self, count: int) -> None:
        """Return when so many requests have come."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.seen) >= count, BOUND)

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def handle_any(self) -> None:
        server = self.server
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with server.news:
            number = len(server.seen) + 1
            seen = Seen(number, time.monotonic(), self.command, self.path, headers, body)
            server.seen.append(seen)
            server.inflight += 1
            server.most_inflight = max(server.most_inflight, server.inflight)
            server.news.notify_all()
        is_over = False

        def over() -> None:  # before its last byte, or the client would be faster
            nonlocal is_over
            with server.news:
                server.inflight -= not is_over
                is_over = True

        try:
            answer = server.answer(seen)
            if answer is None:  # breaks the connection off
                self.close_connection = True
            else:
                self._send(answer, over)
                self.close_connection = self.close_connection or server.hangs_up
        finally:
            over()

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _send(self, answer: Answer, over: Callable[[], None]) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if isinstance(answer.body, bytes):
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            over()
            self.wfile.write(answer.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in answer.body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        over()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass
