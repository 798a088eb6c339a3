"""The options of a run from a TOML file: the same names, the same values."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from penstock._util.compat import load_toml
from penstock.cli.problems import quote


def read_settings(
    name: str, allowed: Collection[str], flags: Collection[str], lists: Collection[str]
) -> dict[str, Any]:
    """Read a file of options.

    Args:
        name: of the file.
        allowed: the names of the options, without the dashes before them.
        flags: those of them that are true or false.
        lists: those that can be given more than once.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML, or has something that is no option. No value is in the message.
    """
    try:
        with open(name, "rb") as file:
            found = load_toml(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1} is wrong") from None
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from None
    unknown = [key for key in found if key not in allowed]
    if unknown:
        known = ", ".join(sorted(allowed))
        raise ValueError(f"unknown key {quote(unknown[0])}; allowed are {known}")
    return {key: _setting(key, value, key in flags, key in lists) for key, value in found.items()}


def _setting(key: str, value: Any, is_flag: bool, is_list: bool) -> Any:
    if key == "template" and isinstance(value, dict):
        return json.dumps(value, default=str)  # TOML has dates
    if is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false")
        return value
    if is_list:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{key} must be text, or a list of texts")
        return texts
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{key} must be text or a number")
    return value
