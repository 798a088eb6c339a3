"""An async service: requests put work into a queue, and get 503 when it is full.

Runs the service on a free port of this machine, sends it more than it can process, and stops. With
``OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317`` its traces and metrics go there (extra
``otel``); examples/observability starts programs that receive and show them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import penstock
import penstock.telemetry

queue: penstock.WorkQueue[str] = penstock.WorkQueue(
    maxsize=10, timeout=0.05, concurrency_limit=4, name="thumbnails"
)


async def make_thumbnail(image: str) -> None:
    """Stand in for work that takes a while and fails now and then."""
    await asyncio.sleep(0.05)
    if image.endswith("13"):
        raise ValueError(f"{image} is not a picture")


async def note_failure(error: Exception, image: str) -> None:
    """Where a service would tell the owner of the image."""
    print(f"failed: {error}")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Start the queue with the service; leaving the block finishes what was accepted."""
    async with queue:
        await queue.process(make_thumbnail, error_handler=note_failure)
        yield


async def post_image(request: Request) -> JSONResponse:
    """Accept the image, or tell the caller to come back later."""
    if await queue.put(request.path_params["image"]):
        return JSONResponse({"status": "accepted"}, status_code=202)
    return JSONResponse({"status": "busy"}, status_code=503, headers={"Retry-After": "1"})


app = Starlette(routes=[Route("/images/{image}", post_image, methods=["POST"])], lifespan=lifespan)


async def main() -> None:
    """Serve, send 60 requests at once, and say what came of them."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint:
        penstock.telemetry.setup("async-import")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        posts = [client.post(f"/images/{number}") for number in range(60)]
        answers = Counter(response.status_code for response in await asyncio.gather(*posts))
    server.should_exit = True
    await serving
    print(f"answers: {dict(sorted(answers.items()))}")
    print(f"queue: {queue.metrics}")
    if endpoint:
        print(f"traces and metrics went to {endpoint}: look for service async-import in Jaeger,")
        print("and for queue thumbnails on the dashboard 'Penstock queues' in Grafana")
    else:
        print("set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 to see its traces in Jaeger")


if __name__ == "__main__":
    asyncio.run(main())
