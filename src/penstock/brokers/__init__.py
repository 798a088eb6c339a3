"""Queues whose items are kept by a broker, for more than one machine. Each is behind an extra.

:mod:`penstock.brokers.nats` has the one on NATS JetStream, and :mod:`penstock.brokers.codecs` what
turns items into bytes.
"""
