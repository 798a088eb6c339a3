"""asyncio.gather and a Semaphore."""

import asyncio
import sys

import httpx

URL, COUNT = sys.argv[1], int(sys.argv[2])


async def main() -> None:
    semaphore = asyncio.Semaphore(20)
    async with httpx.AsyncClient(base_url=URL) as client:

        async def call(number: int) -> int:
            async with semaphore:
                response = await client.post(f"items/{number}")
                response.raise_for_status()
                return number

        calls = [call(number) for number in range(COUNT)]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, int):
                print(result)


asyncio.run(main())
