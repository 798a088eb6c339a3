"""penstock, threads."""

import sys

import requests

import penstock.sync

URL, COUNT = sys.argv[1], int(sys.argv[2])
session = requests.Session()


def call(number: int) -> int:
    response = session.post(f"{URL}items/{number}")
    response.raise_for_status()
    return number


queue = penstock.sync.WorkQueue[int](
    concurrency_limit=20, limits=["40/s"], retry=penstock.RetryPolicy(attempts=5)
)
for number in queue.map(call, range(COUNT)):
    print(number)
