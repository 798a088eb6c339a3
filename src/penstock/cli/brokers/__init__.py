"""The commands for a queue on a broker: put, worker, queue."""
