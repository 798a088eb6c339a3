"""Queues whose items are kept by a broker, in a file or on a server.

:mod:`penstock.brokers.sqlite` has the one in a file, for the processes of one machine;
:mod:`penstock.brokers.nats` the one on NATS JetStream, for more than one machine, behind an extra;
and :mod:`penstock.brokers.codecs` what turns items into bytes. What all of them share is in
``queue``, ``source`` and ``producer``; what each has of its own is an engine, see ``engine``.
"""
