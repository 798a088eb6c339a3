"""Puts calls into the queue, waits for room where there is none, and then until all are done.

``python producer.py [COUNT]``
"""

from __future__ import annotations

import asyncio
import math
import sys

from shared import Call, work_queue

from penstock.errors import QueueUnknownError


async def main(count: int) -> None:
    """Put them, and wait for their end."""
    async with work_queue() as queue:
        for number in range(1, count + 1):
            call = Call(id=number)
            try:
                await queue.put(call, timeout=math.inf)
            except QueueUnknownError:
                # Nobody can say whether the server has it. Twice is better than never here: the
                # workers know by the id what is done already.
                await queue.put(call, timeout=math.inf)
            if number % 50 == 0:
                print(f"accepted {number}", flush=True)
        await queue.join()
        print(f"all {count} are done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
