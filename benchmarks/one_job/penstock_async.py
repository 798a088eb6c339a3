"""penstock, asyncio."""

import asyncio
import sys

import httpx

import penstock

URL, COUNT = sys.argv[1], int(sys.argv[2])


async def main() -> None:
    async with httpx.AsyncClient(base_url=URL) as client:

        async def call(number: int) -> int:
            response = await client.post(f"items/{number}")
            response.raise_for_status()
            return number

        queue = penstock.WorkQueue[int](
            concurrency_limit=20, limits=["40/s"], retry=penstock.RetryPolicy(attempts=5)
        )
        async for number in queue.map(call, range(COUNT)):
            print(number)


asyncio.run(main())
