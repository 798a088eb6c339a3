"""A server that answers at once, with the same few bytes: ``run_command.py`` starts it."""

from __future__ import annotations

import asyncio
import re
import socket

_ANSWER = b'{"id":7,"name":"item","price":10.99}'
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_ANSWER),
    _ANSWER,
)
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


class QuickServer(asyncio.Protocol):
    """Reads requests with bodies of a known length, and answers each."""

    def __init__(self) -> None:
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._read, 0, end)
            whole = end + 4 + (0 if length is None else int(length[1]))
            if len(self._read) < whole:
                return
            self._read = self._read[whole:]
            self._transport.write(_RESPONSE)


async def main() -> None:
    """Print the address, and serve until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = await asyncio.get_running_loop().create_server(QuickServer, sock=listener)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
