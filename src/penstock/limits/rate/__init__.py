"""Limits: at most ``max`` starts, or ``max`` of their cost, in any window of ``per`` seconds."""
