"""The SQL that is the same for every database. ``:name`` stands for a value.

Times are seconds since 1970. Each item has a ``due`` time while it cannot be handed out: the end of
its lease while it has one, or else when it may be tried again. NULL: it is ready.
"""

from __future__ import annotations

from typing import Final

# -- settings -----------------------------------------------------------------------------------

SETTINGS: Final = """
SELECT id, maxsize, ack_wait, max_dead_letters, dedupe FROM penstock_queues WHERE name = :name
"""

# -- leases -------------------------------------------------------------------------------------

# A lease longer than any can be comes from a clock that was set back since.
MAKE_READY: Final = """
UPDATE penstock_items SET due = NULL, lease = NULL
WHERE queue = :queue AND (due <= :now OR (lease IS NOT NULL AND due > :now + :longest))
"""

LEASE: Final = """
UPDATE penstock_items SET due = :until, lease = :token, deliveries = deliveries + 1
WHERE number = :number
"""

EXTEND: Final = """
UPDATE penstock_items SET due = :until WHERE number = :number AND lease = :token
"""

# The end of a lease without an end of the item.
RETURN: Final = """
UPDATE penstock_items SET due = :due, lease = NULL WHERE number = :number AND lease = :token
"""

# Whoever has the lease by now: an item that is done is done.
DONE: Final = "DELETE FROM penstock_items WHERE number = :number"

NEXT_DUE: Final = "SELECT min(due) FROM penstock_items WHERE queue = :queue AND due IS NOT NULL"

# -- ids ----------------------------------------------------------------------------------------

KNOWS_ID: Final = """
SELECT 1 FROM penstock_ids WHERE queue = :queue AND id = :id
"""

FORGET_IDS: Final = "DELETE FROM penstock_ids WHERE queue = :queue AND put_at <= :now - :dedupe"

ADD_ID: Final = "INSERT INTO penstock_ids (queue, id, put_at) VALUES (:queue, :id, :now)"

# -- dead letters -------------------------------------------------------------------------------

COUNT_DEAD: Final = "SELECT count(*) FROM penstock_dead_letters WHERE queue = :queue"

ADD_DEAD: Final = """
INSERT INTO penstock_dead_letters
    (queue, died_at, rank, headers, data, deliveries, error_type, error)
SELECT queue, :now, rank, headers, data, deliveries, :error_type, :error
FROM penstock_items WHERE number = :number AND lease = :token
"""

DEAD_LETTERS: Final = """
SELECT number, CAST(data AS BLOB), headers, deliveries, error_type, error FROM penstock_dead_letters
WHERE queue = :queue AND number > :after AND number <= :last ORDER BY number LIMIT :limit
"""

DEAD_TO_PUT: Final = "SELECT rank, headers, data FROM penstock_dead_letters WHERE number = :number"

LAST_DEAD: Final = "SELECT max(number) FROM penstock_dead_letters WHERE queue = :queue"

REMOVE_DEAD: Final = "DELETE FROM penstock_dead_letters WHERE number = :number"

# -- looking ------------------------------------------------------------------------------------

COUNTS: Final = """
SELECT count(*), sum(lease IS NOT NULL), sum(due IS NOT NULL AND lease IS NULL),
    sum(deliveries > 1), sum(length(data))
FROM penstock_items WHERE queue = :queue
"""
