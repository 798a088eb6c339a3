"""What queues in an SQL database share, whichever database it is: rows, leases, settings, SQL."""
