"""How to serve ``flask_app.py``: ``cd examples && gunicorn -c gunicorn_conf.py``."""

from __future__ import annotations

from typing import Any

wsgi_app = "flask_app:create_app()"
workers = 2
threads = 4
# Each worker makes an app of its own after the fork, and a queue with it. A queue that is started
# before the fork, as preload_app would have it, stays with the parent.
preload_app = False
# Seconds from SIGTERM until a worker is killed: more than the queue gets to finish.
graceful_timeout = 30


def worker_exit(server: Any, worker: Any) -> None:
    """No request comes in any more: finish what was accepted."""
    app = worker.wsgi
    if app is None:  # it could not be made
        return
    queue = app.extensions["thumbnails"]
    if not queue.stop(timeout=20):
        worker.log.error("not done, and to be kept: %s", queue.unprocessed)
    worker.log.info("queue: %s", queue.metrics)
