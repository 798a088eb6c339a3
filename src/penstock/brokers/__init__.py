"""Queues whose items are kept by a broker, for more than one machine. Each is behind an extra.

:mod:`penstock.brokers.nats` has the one on NATS JetStream, and :mod:`penstock.brokers.codecs` what
turns items into bytes. What all of them share is in ``queue``, ``source`` and ``producer``; what
each has of its own is an engine, see ``engine``.
"""
