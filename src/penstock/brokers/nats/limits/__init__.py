"""Limits that many machines share, in a bucket of NATS JetStream."""
