"""ThreadPoolExecutor, tenacity."""

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

import requests
import tenacity

URL, COUNT = sys.argv[1], int(sys.argv[2])
session = requests.Session()


def wait_as_told(error: BaseException) -> float:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return float(error.response.headers.get("Retry-After", "0"))
    return 0.0


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(requests.RequestException),
    wait=tenacity.wait_exception(wait_as_told) + tenacity.wait_random_exponential(0.5, max=60),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)
def call(number: int) -> int:
    response = session.post(f"{URL}items/{number}")
    response.raise_for_status()
    return number


with ThreadPoolExecutor(20) as pool:
    for future in as_completed([pool.submit(call, number) for number in range(COUNT)]):
        try:
            print(future.result())
        except requests.RequestException as error:
            print(error, file=sys.stderr)
