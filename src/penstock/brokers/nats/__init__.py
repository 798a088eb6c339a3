"""The queue on NATS JetStream, for more than one machine. Extra ``nats``.

::

    from penstock import WorkQueue
    from penstock.brokers.nats import NatsQueue

    queue = WorkQueue(queue=NatsQueue("nats://localhost:4222", name="calls", maxsize=10_000))

Whoever puts and whoever processes may be on different machines. ``put`` returning True says that
the server has stored the item; each is processed at least once. With
``limits=NatsLimiter("nats://localhost:4222", [Limit(100, per=1)], name="service")`` all machines
together keep to one rate.
"""

try:
    import nats as _nats  # noqa: F401 - to say what is missing
except ImportError as error:
    raise ImportError(
        "penstock.brokers.nats needs the extra nats: pip install 'penstock[nats]'"
    ) from error

from penstock.brokers.engine import BrokerDeadLetter
from penstock.brokers.nats.limits.limiter import NatsLimiter
from penstock.brokers.nats.queue.processes import NatsProcess
from penstock.brokers.nats.queue.queue import NatsQueue
from penstock.brokers.nats.queue.settings import QueueSettings, existing_settings
from penstock.brokers.nats.queue.streams import QueueInfo

#: What it was called before other brokers had it.
NatsDeadLetter = BrokerDeadLetter

__all__ = [
    "BrokerDeadLetter",
    "NatsDeadLetter",
    "NatsLimiter",
    "NatsProcess",
    "NatsQueue",
    "QueueInfo",
    "QueueSettings",
    "existing_settings",
]
