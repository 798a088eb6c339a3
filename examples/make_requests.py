"""Make the requests of the demo, the same each time.

python examples/make_requests.py > examples/requests.jsonl
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

COUNT = 500
WORDS = ("weir", "sluice", "turbine", "canal", "spillway", "reservoir", "gate", "crête")


def requests() -> Iterator[dict[str, Any]]:
    """Yield requests for ``api_server.py``, in a mixture."""
    dice = random.Random(20)
    for number in range(1, COUNT + 1):
        kind = dice.choices(
            ("read", "search", "echo", "store", "delete", "report"), (8, 4, 4, 2, 1, 1)
        )
        request_id = f"{kind[0]}-{number:03}"
        item = f"/items/{dice.randint(1, 9999)}"
        word = dice.choice(WORDS)
        if kind == ["read"]:
            fields = dice.sample(["number", "name", "price"], dice.randint(0, 2))
            yield {"id": request_id, "path": item} | (
                {"params": {"field": fields}} if fields else {}
            )
        elif kind == ["search"]:
            params = {"q": word, "limit": dice.randint(1, 5)}
            yield {"id": request_id, "method": "GET", "path": "/search", "params": params}
        elif kind == ["echo"]:
            body = {"word": word, "numbers": [dice.randint(0, 99) for _ in range(3)], "flag": True}
            yield {"id": request_id, "method": "POST", "path": "/echo", "json": body}
        elif kind == ["store"]:
            body = {"name": word, "price": dice.randint(100, 9999) / 100}
            yield {"id": request_id, "method": "PUT", "path": item, "json": body}
        elif kind == ["delete"]:
            yield {"id": request_id, "method": "DELETE", "path": item}
        else:
            day = f"/reports/2025-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
            yield {"id": request_id, "path": day, "headers": {"Accept": "text/plain"}}


if __name__ == "__main__":
    for request in requests():
        print(json.dumps(request))
