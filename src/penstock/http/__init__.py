"""What the four HTTP clients have in common: the way of one request through a policy.

It goes in the caller's own task or thread: admit, take a slot, send, judge, wait, again. Imports no
client: each of :mod:`penstock.httpx`, :mod:`penstock.httpx2`, :mod:`penstock.aiohttp` and
:mod:`penstock.requests` says what is particular to its own, as a ``HttpClient``.
"""
