"""One job, as people write it: calls of a service that allows 40 in any second.

Each program gets the address of the service and how many calls to make, and prints the numbers of
those that it has an answer for. ``benchmarks/first_contact.py`` runs them and counts their lines.
"""
