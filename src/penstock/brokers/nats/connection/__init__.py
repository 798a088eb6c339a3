"""The connection to NATS: requests, answers, reconnecting."""
