"""Where a server is and how to get in: checked, and shown to people without what is secret."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client

from penstock._util import checks

_OURS = ("servers", "error_cb", "disconnected_cb", "reconnected_cb", "closed_cb")
_SCHEME = re.compile(r"[a-z]{1,10}://")


def check_servers(servers: Any) -> tuple[str, ...]:
    """URLs of servers, one or several.

    Raises:
        ValueError, TypeError: they are none.
    """
    urls = [servers] if isinstance(servers, str) else servers
    if not isinstance(urls, (list, tuple)) or not all(isinstance(url, str) for url in urls):
        raise TypeError(f"servers must be a URL or a list of URLs, got {type(servers).__name__}")
    if not urls:
        raise ValueError("servers must have at least one URL, got an empty list")
    for url in urls:
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            is_good = parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            is_good = False
        if not is_good:
            raise ValueError(
                f"servers must be like nats://host:4222, got {checks.shown(bare_url(url))}"
            )
    return tuple(urls)


def check_options(options: Any) -> dict[str, Any]:
    """Arguments for ``nats.connect``, but for those that are ours."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping, got {type(options).__name__}")
    for name in _OURS:
        if name in options:
            raise ValueError(f"options must not have {name!r}: the queue sets it itself")
    allowed = inspect.signature(Client.connect).parameters
    for name in options:
        if name not in allowed:
            raise ValueError(f"options has {checks.shown(name)}, which nats.connect does not know")
    return dict(options)


def bare_url(url: str) -> str:
    """A URL without what is secret."""
    scheme = _SCHEME.match(url)
    bare = url[scheme.end() :] if scheme else url
    return (scheme[0] if scheme else "") + bare.rpartition("@")[2]
