"""A FastAPI app: requests put work into a queue, and get 503 when it is full.

    cd examples && uvicorn fastapi_app:app

The lifespan starts the queue, in the event loop that serves, and finishes what was accepted when
the server ends. Each worker process has a queue of its own. Run by itself, it tries that out (see
``thumbnails.py``). With ``OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317``, also under
``opentelemetry-instrument``, its traces and metrics go there. Needs penstock[otel], fastapi,
uvicorn and httpx.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import thumbnails
from fastapi import FastAPI, Request, Response

import penstock
import penstock.telemetry

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Have a queue while the app is served."""
    telemetry = None
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry = penstock.telemetry.setup("fastapi-app")
    queue = penstock.WorkQueue[str](maxsize=5, timeout=0.05, concurrency_limit=2, name="thumbnails")
    await queue.process(thumbnails.make_thumbnail)  # a plain function: two threads
    app.state.queue = queue
    yield
    # No request comes in any more: finish what was accepted, before the server is killed.
    if not await queue.stop(timeout=20):
        logger.error("thumbnails not made, and to be kept: %s", queue.unprocessed)
    logger.info("queue thumbnails: %s", queue.metrics)
    if telemetry is not None:
        # uvicorn ends itself by the signal that it got: what Python does at its end is not done.
        await asyncio.to_thread(telemetry.flush, 2)


app = FastAPI(lifespan=lifespan)


@app.post("/images/{image}", status_code=202)
async def post_image(image: str, request: Request, response: Response) -> dict[str, str]:
    """Accept the image, or tell the caller to come back later."""
    queue: penstock.WorkQueue[str] = request.app.state.queue
    if await queue.put(image):
        return {"status": "accepted"}
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return {"status": "busy"}


@app.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """How the queue of this process does."""
    queue: penstock.WorkQueue[str] = request.app.state.queue
    return {"state": queue.status, "waiting": queue.size, **queue.metrics}


if __name__ == "__main__":
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", "0", "--no-access-log"]
    raise SystemExit(thumbnails.main(command))
