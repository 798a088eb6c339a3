"""The program of the page on mail, with a mail server that refuses what comes too fast."""

from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pages import DOCS, blocks

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

#: Mails that the server refuses with "too many", before it takes any.
REFUSED = 3


class Conversation(socketserver.StreamRequestHandler):
    """One client: as much of SMTP as smtplib speaks."""

    def handle(self) -> None:
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            self.say(self.answer(line))
            if line == "quit":
                break

    def answer(self, line: str) -> str:
        counts = self.server.counts  # type: ignore[attr-defined]
        if line.lower().startswith("mail from"):
            counts["mails"] += 1
            if counts["mails"] <= REFUSED:
                return "450 4.7.0 too many messages"
        if line.lower().startswith("rcpt to") and "nobody" in line:
            counts["unknown"] += 1
            return "550 5.1.1 no such user"
        if line.lower() == "data":
            self.say("354 go on")
            while self.rfile.readline().strip() != b".":
                pass
            counts["sent"] += 1
        return "221 bye" if line.lower() == "quit" else "250 ok"

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def server() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation) as server:
        server.daemon_threads = True
        server.counts = Counter()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_each_mail_is_sent_and_an_unknown_address_is_tried_once(
    server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("flask")
    monkeypatch.setenv("MAIL_HOST", "127.0.0.1")
    monkeypatch.setenv("MAIL_PORT", str(server.server_address[1]))
    program = next(block for block in blocks(DOCS / "how-to" / "mail.md") if block.said("file:"))
    namespace: dict[str, Any] = {"__name__": "app"}
    exec(program.code, namespace)
    app = namespace["create_app"]()
    client = app.test_client()
    addresses = [f"user{number}@example.com" for number in range(6)] + ["nobody@example.com"]
    assert [client.post(f"/welcome/{address}").status_code for address in addresses] == [202] * 7
    assert app.extensions["mails"].stop(timeout=60)
    assert server.counts["sent"] == 6
    assert server.counts["unknown"] == 1
    assert "no mail to nobody@example.com" in caplog.text
