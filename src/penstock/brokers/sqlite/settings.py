"""The settings of a queue that is in a file already, for those who join it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penstock._util import checks
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite import schema
from penstock.brokers.sqlite.problems import check_path, explained, refuse_inherited
from penstock.brokers.sqlite.storage import settings_of


async def existing_settings(path: str | os.PathLike[str], name: str) -> SqlSettings | None:
    """The settings of the queue ``name`` in this file; None if there is none.

    It makes nothing and changes nothing, so that a path or a name that was mistyped stays without
    consequences.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.
        BrokerError: the file cannot be read, or is from a newer penstock.
    """
    return await asyncio.to_thread(_read, checked_path(path), checks.label(name, "name"))


def _read(path: Path, name: str) -> SqlSettings | None:
    if not path.exists():
        return None
    check_path(path)
    refuse_inherited(path)
    try:
        address = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            version = schema.version_of(connection)
            if version is None:
                return None
            schema.check_version(version, str(path))
            there = settings_of(connection, name)
    except sqlite3.Error as error:
        raise explained(error, str(path)) from error
    return None if there is None else there[1]


def checked_path(path: Any) -> Path:
    """The absolute path of the file of a queue: a program may change its folder.

    Raises:
        TypeError, ValueError: it is no path, or names no file.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}")
    if not text or text.startswith(":") or "\0" in text:
        raise ValueError(
            f"path must name a file, got {checks.shown(text)}. For a queue in memory, take "
            "penstock.BoundedQueue"
        )
    return Path(text).absolute()
