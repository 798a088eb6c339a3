"""Lines of other people's batch files, as requests."""

from __future__ import annotations

from typing import Any

#: The path of messages, under the base URL.
_MESSAGES = "/v1/messages"


def as_request(fields: dict[str, Any], base: str | None) -> dict[str, Any]:
    """The fields of a request; those of a batch line are called otherwise.

    OpenAI's Batch API: ``{"custom_id": …, "method": "POST", "url": "/v1/…", "body": {…}}``.
    Anthropic's Message Batches: ``{"custom_id": …, "params": {"model": …}}``.
    """
    if "custom_id" not in fields:
        return fields
    keys = fields.keys() - {"custom_id"}
    if keys <= {"method", "url", "body"} and "url" in keys:
        made = {"id": fields["custom_id"], "method": fields.get("method", "POST")}
        url = fields["url"]
        is_path = isinstance(url, str) and url.startswith("/")
        made["path" if is_path else "url"] = _below(url, base) if is_path else url
        if "body" in fields:
            made["json"] = fields["body"]
        return made
    if keys == {"params"}:
        return {
            "id": fields["custom_id"],
            "method": "POST",
            "path": _below(_MESSAGES, base),
            "json": fields["params"],
        }
    return fields


def _below(path: str, base: str | None) -> str:
    """``path`` under a base URL that may have its first part already: ``…/v1`` and ``/v1/…``."""
    first, slash, rest = path[1:].partition("/")
    if slash and base is not None and base.endswith(f"/{first}"):
        return f"/{rest}"
    return path
