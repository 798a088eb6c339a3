"""Limits that many machines share, by way of NATS JetStream. Needs the extra ``nats``."""

try:
    import nats as _nats  # noqa: F401 - only to say what is missing
except ModuleNotFoundError as error:
    if error.name != "nats":
        raise
    raise ModuleNotFoundError(
        "penstock.brokers.nats needs nats-py: pip install 'penstock[nats]'", name="nats"
    ) from error

from penstock.brokers.nats.limiter import NatsLimiter

__all__ = ["NatsLimiter"]
