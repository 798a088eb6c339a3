"""asyncio.Queue, workers, aiolimiter, tenacity."""

import asyncio
import sys

import httpx
import tenacity
from aiolimiter import AsyncLimiter

URL, COUNT = sys.argv[1], int(sys.argv[2])
limiter = AsyncLimiter(40, 1)


def wait_as_told(error: BaseException) -> float:
    if isinstance(error, httpx.HTTPStatusError):
        return float(error.response.headers.get("Retry-After", "0"))
    return 0.0


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(httpx.HTTPError),
    wait=tenacity.wait_exception(wait_as_told) + tenacity.wait_random_exponential(0.5, max=60),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)
async def call(client: httpx.AsyncClient, number: int) -> int:
    async with limiter:
        response = await client.post(f"items/{number}")
        response.raise_for_status()
        return number


async def work(client: httpx.AsyncClient, queue: asyncio.Queue[int]) -> None:
    while True:
        number = await queue.get()
        try:
            print(await call(client, number))
        except httpx.HTTPError as error:
            print(number, error, file=sys.stderr)
        finally:
            queue.task_done()


async def main() -> None:
    queue = asyncio.Queue[int](maxsize=100)
    async with httpx.AsyncClient(base_url=URL) as client:
        workers = [asyncio.create_task(work(client, queue)) for _ in range(20)]
        for number in range(COUNT):
            await queue.put(number)
        await queue.join()
        for worker in workers:
            worker.cancel()


asyncio.run(main())
