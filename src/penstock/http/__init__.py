"""What the transports for httpx and for httpx2 have in common. Imports neither.

The two packages have the same classes under the same names, and each knows only its own; so
:mod:`penstock.httpx` and :mod:`penstock.httpx2` hand over theirs.
"""
