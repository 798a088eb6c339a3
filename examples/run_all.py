"""Run every example in this folder that ends by itself, and say which failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
#: Servers and helpers: others run them.
NOT_BY_THEMSELVES = {
    "api_server.py",
    "demo.py",
    "gunicorn_conf.py",
    "llm_server.py",
    "make_requests.py",
    "thumbnails.py",
    Path(__file__).name,
}


def main() -> int:
    """Run them one after the other; 1 if one failed."""
    failed = []
    # An example of several programs is a folder, and its run.py has them all run.
    for example in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*/run.py")]):
        name = example.relative_to(FOLDER).as_posix()
        if name in NOT_BY_THEMSELVES:
            continue
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, example], check=False, timeout=60).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all examples ran")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
