"""A queue in streams of NATS JetStream."""
