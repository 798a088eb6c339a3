"""How requests are sent, and what is in the way to a service."""

from __future__ import annotations

import threading
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.problems import MalformedLineError
from penstock.cli.run.requests import RequestMaker
from processes import HeldPort


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


OUT = ("--out", "results.jsonl")


def test_redirects_are_followed_where_the_method_stays(penstock: Any, server: Any) -> None:
    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        status = int(seen.path.removeprefix("/")[:3]) if seen.path[1:4].isdigit() else 200
        return status, {"Location": f"/{seen.method}-there"} if status != 200 else {}, seen.body

    server.answer = answer
    lines = penstock.lines(
        *({"path": f"/{status}"} for status in (301, 302, 303, 307, 308)),
        *({"path": f"/{n}", "method": "POST", "text": "b"} for n in (301, 302, 303, 307, 308)),
    )
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 1, done.stderr
    assert [result["status"] for result in penstock.results()] == [
        *(200, 200, 200, 200, 200),
        *(301, 302, 303, 200, 200),
    ]
    moved = penstock.results()[5]["error"]
    assert (moved["kind"], moved["message"]) == ("redirected", "301 to /POST-there")
    kept = [seen for seen in server.seen if seen.path == "/POST-there"]
    assert [(seen.method, seen.body) for seen in kept] == [("POST", b"b")] * 2


def test_redirects_in_circles_are_a_failure(penstock: Any, server: Any) -> None:
    server.answer = lambda seen: (302, {"Location": seen.path}, b"")
    done = penstock.run("run", penstock.lines({"path": "/a"}), "--url", server.url, *OUT)
    assert done.returncode == 1
    (result,) = penstock.results()
    assert result["error"] == {"kind": "protocol", "message": "redirected more than 10 times"}
    assert len(server.seen) == 11


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_what_is_packed_is_unpacked(penstock: Any, server: Any, encoding: str) -> None:
    import gzip
    import zlib

    import brotli
    from backports import zstd

    pack: dict[str, Any] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": brotli.compress,
        "zstd": zstd.compress,
    }
    kind = {"Content-Type": "application/json", "Content-Encoding": encoding}
    server.answer = lambda seen: (200, kind, pack[encoding](b'{"n": 1}'))
    done = penstock.run("run", penstock.lines({"path": "/"}), "--url", server.url, *OUT)
    assert done.returncode == 0, done.stderr
    assert penstock.results()[0]["body"] == {"n": 1}
    assert encoding in server.seen[0].headers["Accept-Encoding"]


def test_headers_that_are_asked_for_are_kept(penstock: Any, server: Any) -> None:
    server.answer = lambda seen: (200, {"X-Request-Id": "r-1", "X-Other": "o"}, b"")
    lines = penstock.lines({"path": "/"})
    keep = ("--keep-headers", "x-request-id,x-none")
    assert penstock.run("run", lines, "--url", server.url, *OUT, *keep).returncode == 0
    assert penstock.results()[0]["headers"] == {"x-request-id": "r-1"}


def test_bodies_that_are_no_text_go_to_files(penstock: Any, server: Any) -> None:
    content = bytes(range(256))
    server.answer = lambda seen: (200, {"Content-Type": "image/png"}, content)
    lines = penstock.lines({"id": "a", "path": "/a"}, {"id": "../b", "path": "/b"})
    save = ("--save-bodies", "pictures")
    assert penstock.run("run", lines, "--url", server.url, *OUT, *save).returncode == 0
    first, second = (result["body_file"] for result in penstock.results())
    assert first == "pictures/a.png"
    assert second.startswith("pictures/_b-")
    assert {path.read_bytes() for path in (penstock.folder / "pictures").iterdir()} == {content}
    assert len(list((penstock.folder / "pictures").iterdir())) == 2


def test_a_key_in_the_query_is_sent_and_shown_nowhere(penstock: Any, server: Any) -> None:
    penstock.environment["SERVICE_KEY"] = "key-abcdefghij"
    lines = penstock.lines({"path": "/a?b=1"}, {"path": "/c"})
    key = ("--param-env", "key=SERVICE_KEY")
    done = penstock.run("run", lines, "--url", server.url, *OUT, *key)
    assert done.returncode == 0, done.stderr
    assert sorted(seen.query for seen in server.seen) == [
        "b=1&key=key-abcdefghij",
        "key=key-abcdefghij",
    ]
    written = (penstock.folder / "results.jsonl").read_text()
    assert "key-abc" not in done.stdout + done.stderr + written


# -- what is in the way ---------------------------------------------------------------------------


def test_a_proxy_that_does_not_answer_is_named(penstock: Any, server: Any) -> None:
    with HeldPort() as port:
        proxy = f"127.0.0.1:{port.number}"
        penstock.environment["HTTP_PROXY"] = f"http://user:hunter22@{proxy}"
        options = ("--url", "http://service.invalid", *OUT, "--attempts", "1")
        done = penstock.run("run", penstock.lines({"path": "/"}), *options)
    assert done.returncode == 4
    assert (
        f"the proxy {proxy}, from HTTP_PROXY cannot be reached: Connection refused" in done.stderr
    )
    assert "hunter22" not in done.stderr


def test_a_proxy_gets_the_requests_but_for_hosts_that_are_excepted(
    penstock: Any, server: Any
) -> None:
    penstock.environment["http_proxy"] = server.url.replace("//", "//user:word@")
    lines = penstock.lines({"path": "/a"})
    done = penstock.run("run", lines, "--url", "http://service.invalid", *OUT)
    assert done.returncode == 0, done.stderr
    assert server.seen[0].path == "http://service.invalid/a"
    assert server.seen[0].headers["Proxy-Authorization"].startswith("Basic ")
    penstock.environment["no_proxy"] = "127.0.0.1"
    assert penstock.run("run", lines, "--url", server.url, *OUT, "--overwrite").returncode == 0
    assert server.seen[1].path == "/a"


def test_certificates(penstock: Any, server: Any) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(penstock.folder / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    options = ("run", penstock.lines({"path": "/"}), "--url", url, *OUT)
    done = penstock.run(*options)
    assert done.returncode == 4
    assert "certificate not trusted: " in done.stderr
    assert "--cacert" in done.stderr
    assert penstock.run(*options, "--cacert", "ca.pem").returncode == 0
    done = penstock.run(*options, "--insecure", "--overwrite")
    assert done.returncode == 0
    assert "any certificate is trusted (--insecure)" in done.stderr
    assert penstock.run(*options, "--cacert", "requests.jsonl").stderr == (
        "penstock: --cacert requests.jsonl has no certificate in PEM form\n"
    )


# -- bodies ---------------------------------------------------------------------------------------


def test_bodies_of_all_kinds_arrive(penstock: Any, server: Any) -> None:
    (penstock.folder / "a.png").write_bytes(bytes(range(256)))
    lines = penstock.lines(
        {"path": "/form", "method": "POST", "form": {"a": "é &", "b": [1, True]}},
        {"path": "/text", "method": "POST", "text": "é"},
        {"path": "/bytes", "method": "POST", "body_base64": "/wA="},
        {
            "path": "/parts",
            "method": "POST",
            "multipart": {"title": "A", "picture": {"file": "a.png"}},
        },
    )
    done = penstock.run("run", lines, "--url", server.url, *OUT)
    assert done.returncode == 0, done.stdout
    by_path = {seen.path: seen for seen in server.seen}
    form, text, raw = (by_path[path] for path in ("/form", "/text", "/bytes"))
    assert form.body == b"a=%C3%A9+%26&b=1&b=true"
    assert form.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert (text.body, text.headers["Content-Type"]) == ("é".encode(), "text/plain; charset=utf-8")
    assert (raw.body, raw.headers["Content-Type"]) == (b"\xff\0", "application/octet-stream")
    parts = by_path["/parts"]
    message = message_from_bytes(
        b"Content-Type: " + parts.headers["Content-Type"].encode() + b"\r\n\r\n" + parts.body
    )
    title, picture = message.get_payload()  # type: ignore[misc]
    assert title.get_payload() == "A"
    assert picture.get_filename() == "a.png"
    assert picture.get_content_type() == "image/png"
    assert picture.get_payload(decode=True) == bytes(range(256))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"json": 1, "text": "a"}, "has both json and text: give one"),
        ({"text": 1}, "text must be text, got a number"),
        ({"body_base64": "%"}, "body_base64 must be base64 text, as base64 -w0 writes"),
        ({"form": []}, "form must be an object, got a list"),
        ({"multipart": {"a": {"file": "/etc/passwd"}}}, "the file of 'a' must be beside the input"),
        ({"multipart": {"a": {"file": "../a"}}}, "the file of 'a' must be beside the input"),
        ({"multipart": {"a": {"file": "none"}}}, "cannot be read: No such file or directory"),
        ({"multipart": {"a": {"path": "a"}}}, "'a' must be text, or an object such as"),
    ],
)
def test_bodies_that_cannot_be_sent(body: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedLineError) as caught:
        RequestMaker("http://h", tmp_path).make(1, {"path": "/", **body})
    assert problem in str(caught.value)
