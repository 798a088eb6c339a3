"""What the web examples share: the work, and a test of the app.

The test serves an app in another process, sends more than it can process from 16 threads, ends the
server with SIGTERM, and checks that all accepted items were done.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

FOLDER = "THUMBNAILS"
#: What a server says when it serves.
_ADDRESS = re.compile(r"(?:running on|server at) (http://127\.0\.0\.1:\d+)", re.IGNORECASE)


def make_thumbnail(image: str) -> None:
    """Stand in for work that takes a while: writes an empty file."""
    time.sleep(0.1)
    Path(os.environ[FOLDER], image).touch(exist_ok=False)


@contextmanager
def served(command: list[str], folder: str) -> Iterator[str]:
    """Run a server, yield its address, and end it with SIGTERM."""
    options = {FOLDER: folder, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        env=os.environ | options,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="")
                if address := _ADDRESS.search(line):
                    break
            else:
                raise SystemExit("the server did not start")
            # Somebody has to read the rest, or the server would wait for that.
            said: list[str] = []
            reader = threading.Thread(target=said.extend, args=[process.stdout])
            reader.start()
            yield address[1]
            process.terminate()
            process.wait(40)
            reader.join()
        finally:
            process.kill()
    print("".join(line for line in said if "thumbnails" in line), end="")
    print(f"the server ended with {process.returncode}")


def main(command: list[str]) -> int:
    """Serve by this command, send 60 images, stop, and say what came of them; 1 if one is lost."""
    with tempfile.TemporaryDirectory() as folder:
        with served(command, folder) as url, httpx.Client(base_url=url, trust_env=False) as client:

            def post(number: int) -> tuple[str, int, str | None]:
                answer = client.post(f"/images/{number}.png", timeout=30)
                return f"{number}.png", answer.status_code, answer.headers.get("Retry-After")

            with ThreadPoolExecutor(16) as threads:
                answers = list(threads.map(post, range(60)))
            print("status:", client.get("/status").json())
            early = len(os.listdir(folder))
        made = set(os.listdir(folder))
    accepted = {image for image, status, _ in answers if status == 202}
    counts = Counter((status, retry_after) for _, status, retry_after in answers)
    for (status, retry_after), count in sorted(counts.items()):
        print(f"{count} times {status}" + (f", Retry-After: {retry_after}" if retry_after else ""))
    print(f"accepted: {len(accepted)}")
    print(f"made: {len(made)}, {len(made) - early} of them after SIGTERM")
    return 0 if accepted == made else 1
