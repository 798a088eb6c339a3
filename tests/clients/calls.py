"""One call by each client; it raises what the client raises."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import pytest

QUESTION: Any = {
    "model": "gauge-1",
    "messages": [{"role": "user", "content": "What is a weir?"}],
    "max_tokens": 20,
}
#: Seconds; nothing takes so long.
BOUND = 60.0


def by_httpx(url: str) -> object:
    httpx: Any = pytest.importorskip("httpx")
    return httpx.get(url, trust_env=False).raise_for_status()


def by_httpx2(url: str) -> object:
    httpx2: Any = pytest.importorskip("httpx2")
    return httpx2.get(url, trust_env=False).raise_for_status()


def by_requests(url: str) -> object:
    requests: Any = pytest.importorskip("requests")
    return requests.get(url, timeout=BOUND).raise_for_status()


def by_aiohttp(url: str) -> object:
    aiohttp: Any = pytest.importorskip("aiohttp")

    async def get() -> object:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            return await session.get(url)

    return asyncio.run(get())


def by_urllib(url: str) -> object:
    return urllib.request.urlopen(url, timeout=BOUND)


def by_openai(url: str) -> object:
    openai: Any = pytest.importorskip("openai")
    with openai.OpenAI(base_url=url, api_key="-", max_retries=0) as client:
        return client.chat.completions.create(**QUESTION)


def by_anthropic(url: str) -> object:
    anthropic: Any = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=url, api_key="-", max_retries=0) as client:
        return client.messages.create(**QUESTION)


def by_botocore(url: str) -> object:
    botocore: Any = pytest.importorskip("botocore")
    from botocore.config import Config
    from botocore.session import Session

    assert botocore
    client: Any = Session().create_client(
        "dynamodb",
        endpoint_url=url,
        region_name="eu-central-1",
        aws_access_key_id="-",
        aws_secret_access_key="-",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )
    try:
        return client.list_tables()
    finally:
        client.close()


def by_google_api_core(url: str) -> object:
    """As the REST clients of Google's libraries do it."""
    exceptions: Any = pytest.importorskip("google.api_core.exceptions")
    requests: Any = pytest.importorskip("requests")
    response = requests.get(url, timeout=BOUND)
    if response.status_code >= 400:
        raise exceptions.from_http_response(response)
    return response


def by_google_genai(url: str) -> object:
    genai: Any = pytest.importorskip("google.genai")
    client = genai.Client(api_key="-", http_options={"base_url": url})
    return client.models.generate_content(model="gauge-1", contents="What is a weir?")


def by_stripe(url: str) -> object:
    stripe: Any = pytest.importorskip("stripe")
    client = stripe.StripeClient("-", base_addresses={"api": url}, max_network_retries=0)
    return client.raw_request("get", "/v1/customers")


def by_slack_sdk(url: str) -> object:
    slack_sdk: Any = pytest.importorskip("slack_sdk")
    return slack_sdk.WebClient("-", base_url=f"{url}/").api_test()


def by_tenacity(url: str) -> object:
    tenacity: Any = pytest.importorskip("tenacity")
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2))
    return retrying(by_httpx, url)


CALLS = {
    name.removeprefix("by_"): call for name, call in list(globals().items()) if name[:3] == "by_"
}
