"""`penstock run`: requests from the input through a work queue to a service."""
