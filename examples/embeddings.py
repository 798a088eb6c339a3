"""Embeddings in batches: a hundred texts in one request, under requests and tokens a minute.

    python examples/embeddings.py

``embed`` stands for the request to a service. Its minute is one second long here.
"""

from __future__ import annotations

import asyncio

from penstock import Limit, RetryPolicy, WorkQueue

MINUTE = 1.0
#: The most texts in a request.
MOST = 100


def tokens_of(text: str) -> int:
    """What services count, roughly, until they know better."""
    return len(text) // 4 + 1


async def embed(texts: list[str]) -> list[list[float]]:
    """One request: a vector for each text."""
    print(f"a request for {len(texts)} texts, {sum(map(tokens_of, texts))} tokens")
    await asyncio.sleep(0.05)
    return [[float(len(text)), 0.0] for text in texts]


async def main() -> None:
    """Get the vectors of a thousand texts, in their order."""
    texts = [f"This is text number {number}. " * (1 + number % 20) for number in range(1_000)]
    requests = Limit(20, per=MINUTE, name="requests")
    tokens = Limit(60_000, per=MINUTE, cost=tokens_of, name="tokens")
    queue = WorkQueue[str](limits=[requests, tokens], retry=RetryPolicy(attempts=5))
    vectors = [
        vector async for vector in queue.map_batches(embed, texts, max_size=MOST, num_workers=4)
    ]
    assert [vector[0] for vector in vectors] == [len(text) for text in texts]
    print(f"{len(vectors)} vectors")


if __name__ == "__main__":
    asyncio.run(main())
