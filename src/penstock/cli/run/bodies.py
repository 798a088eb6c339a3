"""The body of a request: JSON, a form, text, bytes, or parts with files."""

from __future__ import annotations

import binascii
import json
import mimetypes
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode

from penstock.cli.problems import MalformedLineError, kind, quote

#: The keys of a line that give it a body, of which it may have one.
BODIES = ("json", "form", "text", "body_base64", "multipart")

_to_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Part:
    """A field of a multipart body: a value, or a file."""

    name: str
    value: str = ""
    path: Path | None = None
    filename: str = ""
    content_type: str = ""


@dataclass(frozen=True)
class Multipart:
    """A body of parts. Files are read when it is sent, so that few of them are in memory."""

    boundary: str
    parts: tuple[Part, ...]

    def content(self) -> bytes:
        """The body.

        Raises:
            OSError: a file cannot be read.
        """
        pieces = []
        for part in self.parts:
            pieces.append(f'--{self.boundary}\r\nContent-Disposition: form-data; name="'.encode())
            pieces.append(_quoted(part.name))
            if part.path is None:
                pieces.append(b'"\r\n\r\n' + part.value.encode("utf-8", "surrogatepass"))
            else:
                pieces.append(b'"; filename="' + _quoted(part.filename))
                pieces.append(f'"\r\nContent-Type: {part.content_type}\r\n\r\n'.encode())
                pieces.append(part.path.read_bytes())
            pieces.append(b"\r\n")
        return b"".join([*pieces, f"--{self.boundary}--\r\n".encode()])


@dataclass(frozen=True)
class Body:
    """The body of a request, and what its fingerprint is made of."""

    content: bytes | None = None
    content_type: str = ""
    parts: tuple[Any, ...] = ()
    multipart: Multipart | None = None


_NONE = Body()


def make_body(fields: dict[str, Any], folder: Path | None) -> Body:
    """The body that a line asks for; ``folder`` is where its files are.

    Raises:
        MalformedLineError: there are two, or one that cannot be sent.
    """
    given = [name for name in BODIES if name in fields]
    if not given:
        return _NONE
    if len(given) > 1:
        raise MalformedLineError(f"has both {given[0]} and {given[1]}: give one")
    name, value = given[0], fields[given[0]]
    if name == "json":
        return _json(value)
    if name == "form":
        content = urlencode(list(_form_pairs(value)), errors="surrogatepass").encode()
        return Body(content, "application/x-www-form-urlencoded", (name, value))
    if name == "multipart":
        return _multipart(value, folder)
    if not isinstance(value, str):
        raise MalformedLineError(f"{name} must be text, got {kind(value)}")
    if name == "text":
        try:
            return Body(value.encode(), "text/plain; charset=utf-8", (name, value))
        except UnicodeEncodeError:
            raise MalformedLineError(
                "text has an incomplete character (a lone surrogate)"
            ) from None
    try:
        return Body(b64decode(value, validate=True), "application/octet-stream", (name, value))
    except (ValueError, binascii.Error):
        raise MalformedLineError("body_base64 must be base64 text, as base64 -w0 writes") from None


def _json(value: Any) -> Body:
    try:
        return Body(_to_json(value).encode(), "application/json", (value,))
    except RecursionError:
        raise MalformedLineError("json is nested too deeply") from None


def _form_pairs(form: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(form, dict):
        raise MalformedLineError(f"form must be an object, got {kind(form)}")
    for name, value in form.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (dict, list)):
                raise MalformedLineError(
                    f"form: {quote(name)} must be text, a number, true, false, null or a list of "
                    f"these, got {kind(one)}" + (" in a list" if one is not value else "")
                )
            yield name, _text(one)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _to_json(value)


def _multipart(value: Any, folder: Path | None) -> Body:
    if not isinstance(value, dict):
        raise MalformedLineError(f"multipart must be an object, got {kind(value)}")
    digest = blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16)
    parts = tuple(_part(name, one, folder, digest) for name, one in value.items())
    boundary = f"penstock-{digest.hexdigest()}"
    return Body(
        None,
        f"multipart/form-data; boundary={boundary}",
        ("multipart", digest.hexdigest()),
        Multipart(boundary, parts),
    )


def _part(name: str, value: Any, folder: Path | None, digest: Any) -> Part:
    if isinstance(value, list):
        raise MalformedLineError(f"multipart: {quote(name)} must be text or an object, got a list")
    if not isinstance(value, dict):
        return Part(name, _text(value))
    unknown = [key for key in value if key not in ("file", "filename", "content_type")]
    if unknown or not all(isinstance(one, str) for one in value.values()) or "file" not in value:
        raise MalformedLineError(
            f"multipart: {quote(name)} must be text, or an object such as "
            '{"file": "a.png", "content_type": "image/png"}'
        )
    given = value["file"]
    inside = PurePosixPath(given)
    # Whoever wrote the input is not to send any file of this machine.
    if inside.is_absolute() or ".." in inside.parts or "\\" in given or "\0" in given:
        raise MalformedLineError(
            f"multipart: the file of {quote(name)} must be beside the input, or in a folder there"
        )
    path = (folder or Path()) / inside
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise MalformedLineError(
            f"multipart: the file of {quote(name)} cannot be read: {error.strerror or error}"
        ) from None
    guessed = mimetypes.guess_type(given)[0] or "application/octet-stream"
    kind_of = value.get("content_type", guessed)
    if not kind_of.isascii() or not kind_of.isprintable():
        raise MalformedLineError(f"multipart: the content_type of {quote(name)} must be ASCII")
    return Part(name, "", path, value.get("filename", inside.name), kind_of)


def _quoted(text: str) -> bytes:
    """A name as browsers write it (HTML, "multipart/form-data encoding algorithm")."""
    escaped = text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.encode("utf-8", "surrogatepass")
