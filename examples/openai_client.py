"""OpenAI's client within its limits, with one argument.

The client gets an HTTP client with a transport of penstock. All its requests keep to the limits on
requests and tokens per minute, are sent again when the server says "too many requests", and have a
trace. Starts ``llm_server.py``, whose "minute" has two seconds. For the real service, leave out
``base_url`` and set ``MINUTE = 60``. Needs openai and penstock[httpx2]
(with an openai before version 3: penstock[httpx], and httpx for httpx2).
"""

from __future__ import annotations

import asyncio
import json

import httpx2
from llm_batch import MARGIN, MINUTE, REQUESTS, TOKENS, server
from openai import AsyncOpenAI, OpenAI

from penstock import Limit, RetryPolicy
from penstock.httpx2 import PolicyTransport, SyncPolicyTransport

MODEL = "gauge-1"


def at_most(request: httpx2.Request) -> int:
    """Tokens that a request may use: what services count until they know better."""
    body = json.loads(request.content)
    prompt = sum(len(message["content"]) // 4 + 1 for message in body["messages"])
    return int(prompt + body["max_tokens"])


async def settle(response: httpx2.Response) -> None:
    """Tell the limit what a request truly cost: the rest is free for others at once."""
    if response.headers["content-type"] == "application/json" and response.is_success:
        await response.aread()
        used = response.json()["usage"]["total_tokens"]
        response.extensions["penstock_permit"].settle("tokens", used)


def limits() -> list[Limit]:
    """What the account may do."""
    return [
        Limit(REQUESTS, per=MINUTE * MARGIN, name="requests"),
        Limit(TOKENS, per=MINUTE * MARGIN, cost=at_most, name="tokens"),
    ]


async def ask_many(url: str) -> None:
    """Ask 60 questions at once, and one whose answer comes word by word."""
    transport = PolicyTransport(
        limits(),
        retry=RetryPolicy(attempts=5),
        retry_unsafe=True,  # as the SDK, which asks again after a timeout or a broken connection
        concurrency=20,
    )
    http = httpx2.AsyncClient(
        transport=transport, timeout=30, trust_env=False, event_hooks={"response": [settle]}
    )
    # The SDK's own retries stay: it alone sees a body that breaks off.
    async with AsyncOpenAI(base_url=url, api_key="-", http_client=http) as client:

        async def ask(number: int) -> str:
            completion = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{number}: what does a penstock do?"}],
                max_tokens=80 + number,
            )
            return completion.choices[0].message.content or ""

        answers = await asyncio.gather(*(ask(number) for number in range(60)))
        print(f"answered         {sum(map(bool, answers))} of {len(answers)}")
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "And a weir?"}],
            max_tokens=40,
            stream=True,
        )
        words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
        print(f"word by word     {''.join(word or '' for word in words)}")
        print(f"told to wait     {transport.limits.statistics().closures} times")
        statistics = transport.statistics()
        print(f"sent             {statistics.starts}, {statistics.retries} of them again")


def ask_from_a_script(url: str) -> None:
    """The same without asyncio."""
    transport = SyncPolicyTransport(limits(), retry=RetryPolicy(attempts=5), retry_unsafe=True)
    http = httpx2.Client(transport=transport, timeout=30, trust_env=False)
    with OpenAI(base_url=url, api_key="-", http_client=http) as client:
        completion = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What does a sluice do?"}],
            max_tokens=20,
        )
        print(f"from a script    {completion.choices[0].message.content}")


def main() -> None:
    """Ask, and then ask the server what it saw."""
    with server() as url:
        asyncio.run(ask_many(f"{url}/v1"))
        ask_from_a_script(f"{url}/v1")
        print("the server says ", httpx2.get(f"{url}/stats", trust_env=False).text)


if __name__ == "__main__":
    main()
