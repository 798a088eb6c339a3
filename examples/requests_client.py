"""A script with requests and threads that keeps to the limits of an API, with one line.

Starts ``api_server.py``, which allows 50 requests a second and fails sometimes, and fetches 150
items in 16 threads. Needs penstock[requests], starlette and uvicorn.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from penstock import RetryPolicy
from penstock.requests import PolicyAdapter

SERVER = [sys.executable, str(Path(__file__).with_name("api_server.py"))]
OPTIONS = ["--rate", "50", "--errors", "0.1", "--latency", "0.05"]


def fetch_all(url: str) -> None:
    """Fetch the items, and say what it took."""
    adapter = PolicyAdapter(["45/s"], retry=RetryPolicy(attempts=5))
    with requests.Session() as session, ThreadPoolExecutor(16) as threads:
        session.trust_env = False
        session.mount(url, adapter)

        def fetch(number: int) -> int:
            headers = {"X-Request-Id": str(number)}
            return session.get(f"{url}/items/{number}", headers=headers, timeout=30).status_code

        statuses = Counter(threads.map(fetch, range(150)))
    statistics = adapter.statistics()
    print(f"answered  {dict(statuses)}")
    print(f"sent      {statistics.starts}, {statistics.retries} of them again")


def main() -> None:
    """Start the server, and stop it again."""
    with subprocess.Popen([*SERVER, *OPTIONS], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            fetch_all(server.stdout.readline().strip())
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
