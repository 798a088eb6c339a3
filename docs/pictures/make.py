"""Make the pictures of the documentation anew, from a real run.

    python docs/pictures/make.py

Starts the server of the examples, runs ``penstock run`` against it on a terminal, and takes what
is on the terminal, in the middle and at the end, and the report as Chromium shows it.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
COLUMNS, ROWS = 88, 24
#: Pixels of the report.
WIDTH, HEIGHT = 1100, 1606
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)


@contextmanager
def server(port: int) -> Iterator[str]:
    """The server of the examples; its address."""
    script = str(EXAMPLES / "api_server.py")
    options = ("--rate", "20", "--errors", "0.04", "--latency", "0.3", "--port", str(port))
    command = [sys.executable, script, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def on_a_terminal(command: list[str], folder: Path) -> str:
    """Run it on a terminal and return everything that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    program = [sys.executable, "-m", "penstock.cli", *command[1:]]
    with subprocess.Popen(program, cwd=folder, env=environment, stdout=theirs) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # so ends a terminal on Linux
            pass
        finally:
            os.close(ours)
    if process.returncode:
        raise SystemExit(f"penstock run ended with {process.returncode}:\n{written.decode()}")
    return written.decode()


def screens(written: str) -> list[str]:
    """What was on the terminal, one after the other: each takes the place of the one before."""
    return re.split(r"\r(?:\x1b\[\d+A)?\x1b\[J", written)


def draw(command: list[str], screen: str, file: Path) -> None:
    """Draw what a terminal showed."""
    lines = [f"$ {shlex.join(command[:4])} \\", f"    {shlex.join(command[4:])}"]
    clean = re.sub(r"\x1b\[\?25[hl]", "", screen).replace("\r\n", "\n").rstrip()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("\n".join(lines), style="bold"))
    console.print(Text.from_ansi(clean))
    svg = console.export_svg(title="penstock run", unique_id=file.stem)
    # The fonts are not fetched from elsewhere: whoever looks has one.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code,", "").replace("Fira Code, ", "")
    file.write_text(svg, encoding="utf-8")


def photograph(page: Path, file: Path) -> None:
    """Take a picture of a page, in 256 colours, so that it is small."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise SystemExit(f"no Chromium: none of {', '.join(CHROMIUM)} is installed")
    with tempfile.TemporaryDirectory() as profile:
        whole = Path(profile) / "whole.png"
        subprocess.run(
            [
                *(program, *OPTIONS, f"--user-data-dir={profile}", f"--screenshot={whole}"),
                *(f"--window-size={WIDTH},{HEIGHT}", page.as_uri()),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
        with Image.open(whole) as image:
            image.convert("RGB").quantize(256).save(file, optimize=True)


def main() -> None:
    """Run, look, draw."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where they go")
    parser.add_argument("--count", type=int, default=500, help="requests to send")
    parser.add_argument("--port", type=int, default=8808, help="of the server; 0: a free one")
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))
    from make_requests import requests  # beside the server

    with tempfile.TemporaryDirectory() as name, server(options.port) as url:
        folder = Path(name)
        chosen = list(requests())[: options.count]
        lines = "".join(json.dumps(request) + "\n" for request in chosen)
        (folder / "requests.jsonl").write_text(lines, encoding="utf-8")
        command = shlex.split(
            f"penstock run requests.jsonl --url={url} --out=results.jsonl"
            " --concurrency=12 --rate=24/s --report=report.html"
        )
        seen = screens(on_a_terminal(command, folder))
        # Two thirds are done, and the service holds us up, if it does just then.
        there = [
            screen
            for screen in seen
            if (found := re.search(r"(\d+)/\d+ ", screen))
            and 0.55 < int(found[1]) / len(chosen) < 0.75
        ]
        draw(
            command,
            next((s for s in there if "held up" in s), there[-1]),
            Path(options.folder, "progress.svg"),
        )
        draw(command, seen[-1], Path(options.folder, "bill.svg"))
        photograph(folder / "report.html", Path(options.folder, "report.png"))


if __name__ == "__main__":
    main()
