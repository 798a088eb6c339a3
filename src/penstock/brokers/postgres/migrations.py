"""What is made in the database, step by step. A step that was released is never changed.

``{schema}`` stands for the schema, quoted. What a queue does is in functions, so that it is one
round trip, and any program can call them in a transaction of its own.

A queue has ``maxsize`` slots, rows that are made once: a put fills a free one, the end of an item
empties it. Whoever looks for a row skips those that others have locked (SKIP LOCKED), so neither
puts nor ends of items wait for each other. Where several rows are locked and waited for, they are
locked in the order of their numbers, so that nobody waits in a circle.

All times are by the clock of the database. A slot has a ``due`` time while its item cannot be
handed out: the end of its lease while it has one, or else when it may be tried again. NULL: it is
ready.
"""

from __future__ import annotations

from typing import Final

# The planner knows little of tables that are empty at one time and full at another, and a plan is
# kept for as long as the connection. (What is off only counts as expensive, and what is expensive
# would be compiled first, which takes a second.) For the same reason slots are looked up by ANY of
# an array, and not by a join, which might read all of them.
_PLANS = (
    "SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off "
    "SET jit = off"
)
_FUNCTION = f"LANGUAGE plpgsql {_PLANS}"
#: For whoever may call the function, without a right to the tables.
_FOR_PRODUCERS = f"{_FUNCTION} SECURITY DEFINER"

_VERSION_1 = f"""
CREATE TABLE {{schema}}.queues (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    maxsize integer NOT NULL CHECK (maxsize BETWEEN 1 AND 1000000),
    ack_wait double precision NOT NULL,
    max_dead_letters integer NOT NULL,
    dedupe double precision NOT NULL,
    is_paused boolean NOT NULL DEFAULT false
);
CREATE SEQUENCE {{schema}}.numbers;
CREATE TABLE {{schema}}.slots (
    queue integer NOT NULL REFERENCES {{schema}}.queues (id) ON DELETE CASCADE,
    slot integer NOT NULL,
    -- one more than the bound, which was lowered: to be removed when an item is done
    is_extra boolean NOT NULL DEFAULT false,
    -- NULL: the slot is free
    number bigint,
    rank double precision,
    put_at timestamptz,
    due timestamptz,
    lease integer,
    deliveries integer,
    headers text,
    data bytea,
    PRIMARY KEY (queue, slot)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX slots_free ON {{schema}}.slots (queue, slot) WHERE number IS NULL AND NOT is_extra;
CREATE INDEX slots_ready ON {{schema}}.slots (queue, rank, number)
    WHERE number IS NOT NULL AND due IS NULL;
CREATE INDEX slots_extra ON {{schema}}.slots (queue) WHERE is_extra;
CREATE INDEX slots_due ON {{schema}}.slots (queue, due) WHERE due IS NOT NULL;
CREATE TABLE {{schema}}.dead_letters (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue integer NOT NULL REFERENCES {{schema}}.queues (id) ON DELETE CASCADE,
    died_at timestamptz NOT NULL,
    rank double precision NOT NULL,
    headers text NOT NULL,
    data bytea NOT NULL,
    deliveries integer NOT NULL,
    error_type text NOT NULL,
    error text NOT NULL
);
CREATE INDEX dead_letters_of_queue ON {{schema}}.dead_letters (queue, number);
CREATE TABLE {{schema}}.ids (
    queue integer NOT NULL REFERENCES {{schema}}.queues (id) ON DELETE CASCADE,
    id text NOT NULL,
    put_at timestamptz NOT NULL,
    PRIMARY KEY (queue, id)
);
CREATE INDEX ids_old ON {{schema}}.ids (queue, put_at);
CREATE TABLE {{schema}}.processes (
    key text PRIMARY KEY,
    queue integer NOT NULL REFERENCES {{schema}}.queues (id) ON DELETE CASCADE,
    seen_at timestamptz NOT NULL,
    told text NOT NULL
);

-- As many slots as maxsize says. Items that are in there stay.
CREATE FUNCTION {{schema}}.resize() RETURNS trigger {_FOR_PRODUCERS} AS $$
DECLARE
    too_many integer;
BEGIN
    SELECT count(*) - new.maxsize INTO too_many
    FROM {{schema}}.slots WHERE queue = new.id AND NOT is_extra;
    IF too_many > 0 THEN
        DELETE FROM {{schema}}.slots WHERE queue = new.id AND slot IN (
            SELECT slot FROM {{schema}}.slots
            WHERE queue = new.id AND number IS NULL AND NOT is_extra
            ORDER BY slot DESC LIMIT too_many FOR UPDATE SKIP LOCKED
        );
        SELECT count(*) - new.maxsize INTO too_many
        FROM {{schema}}.slots WHERE queue = new.id AND NOT is_extra;
        UPDATE {{schema}}.slots SET is_extra = true WHERE queue = new.id AND slot IN (
            SELECT slot FROM {{schema}}.slots WHERE queue = new.id AND NOT is_extra
            ORDER BY slot DESC LIMIT greatest(too_many, 0)
        );
    ELSIF too_many < 0 THEN
        UPDATE {{schema}}.slots SET is_extra = false WHERE queue = new.id AND slot IN (
            SELECT slot FROM {{schema}}.slots WHERE queue = new.id AND is_extra LIMIT -too_many
        );
        INSERT INTO {{schema}}.slots (queue, slot)
        SELECT new.id, last + k
        FROM (SELECT coalesce(max(slot), 0) AS last, count(*) FILTER (WHERE NOT is_extra) AS there
              FROM {{schema}}.slots WHERE queue = new.id) AS now,
            generate_series(1, new.maxsize - there) AS k;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER resize AFTER INSERT OR UPDATE OF maxsize ON {{schema}}.queues
    FOR EACH ROW EXECUTE FUNCTION {{schema}}.resize();

-- How many of these items found room: the first ones. And whether no item was ready before.
CREATE FUNCTION {{schema}}.put_many(
    queue_ integer, data_ bytea[], headers_ text[], ranks double precision[],
    OUT stored integer, OUT was_idle boolean
) {_FOR_PRODUCERS} AS $$
DECLARE
    free integer[];
    numbers bigint[];
BEGIN
    free := ARRAY(
        SELECT slot FROM {{schema}}.slots
        WHERE queue = queue_ AND number IS NULL AND NOT is_extra
        ORDER BY slot LIMIT cardinality(data_) FOR UPDATE SKIP LOCKED
    );
    stored := cardinality(free);
    IF stored = 0 THEN
        RETURN;
    END IF;
    was_idle := NOT EXISTS (
        SELECT FROM {{schema}}.slots WHERE queue = queue_ AND number IS NOT NULL AND due IS NULL
    );
    numbers := ARRAY(
        SELECT nextval('{{schema}}.numbers') FROM generate_series(1, stored)
    );
    UPDATE {{schema}}.slots SET
        number = numbers[array_position(free, slot)], rank = ranks[array_position(free, slot)],
        headers = headers_[array_position(free, slot)], data = data_[array_position(free, slot)],
        put_at = clock_timestamp(), deliveries = 0
    WHERE queue = queue_ AND slot = ANY (free);
END $$;

-- 'new', 'duplicate' or 'full'. Workers hear of it when the transaction commits.
CREATE FUNCTION {{schema}}.put(
    queue_name text, data_ bytea, headers_ text DEFAULT '', id_ text DEFAULT NULL,
    rank_ double precision DEFAULT 0
) RETURNS text {_FOR_PRODUCERS} AS $$
DECLARE
    queue_ integer;
    dedupe_ interval;
BEGIN
    SELECT id, make_interval(secs => dedupe) INTO queue_, dedupe_
    FROM {{schema}}.queues WHERE name = queue_name;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = format('there is no queue %s', queue_name);
    END IF;
    IF id_ IS NOT NULL THEN
        INSERT INTO {{schema}}.ids AS known VALUES (queue_, id_, clock_timestamp())
        ON CONFLICT (queue, id) DO UPDATE SET put_at = excluded.put_at
        WHERE known.put_at <= excluded.put_at - dedupe_;
        IF NOT FOUND THEN
            RETURN 'duplicate';
        END IF;
    END IF;
    IF (
        SELECT stored
        FROM {{schema}}.put_many(queue_, ARRAY[data_], ARRAY[headers_], ARRAY[rank_])
    ) = 1 THEN
        PERFORM pg_notify('{{channel}}' || queue_ || ':items', 'put');
        RETURN 'new';
    END IF;
    DELETE FROM {{schema}}.ids WHERE queue = queue_ AND id = id_;
    RETURN 'full';
END $$;

-- Items, each under a lease. If fewer are ready there is one more row, without a slot, whose age is
-- the seconds until another one may be. A lease need not survive a power cut: then it is ready.
CREATE FUNCTION {{schema}}.take(queue_ integer, most integer) RETURNS TABLE (
    slot integer, number bigint, lease integer, data bytea, headers text, age double precision
) {_FUNCTION} AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := clock_timestamp();
    until timestamptz;
    count_ integer;
BEGIN
    SELECT now_ + make_interval(secs => ack_wait) INTO until
    FROM {{schema}}.queues WHERE id = queue_ AND NOT is_paused;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE {{schema}}.slots SET due = NULL, lease = NULL
    WHERE queue = queue_ AND slot = ANY (ARRAY(
        SELECT slot FROM {{schema}}.slots WHERE queue = queue_ AND due <= now_
        ORDER BY due LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
    RETURN QUERY WITH taken AS (
        UPDATE {{schema}}.slots AS s SET
            due = until, deliveries = s.deliveries + 1, lease = s.deliveries + 1
        WHERE s.queue = queue_ AND s.slot = ANY (ARRAY(
            SELECT slot FROM {{schema}}.slots
            WHERE queue = queue_ AND number IS NOT NULL AND due IS NULL
                -- once more: who sees an item that was put after a pause sees the pause
                AND (SELECT NOT is_paused FROM {{schema}}.queues WHERE id = queue_)
            ORDER BY rank, number LIMIT most FOR UPDATE SKIP LOCKED
        ))
        RETURNING s.slot, s.number, s.lease, s.data, s.headers, s.put_at, s.rank
    )
    SELECT slot, number, lease, data, headers,
        greatest(0, extract(epoch FROM now_ - put_at))::double precision
    FROM taken ORDER BY rank, number;
    GET DIAGNOSTICS count_ = ROW_COUNT;
    IF count_ < most THEN
        RETURN QUERY SELECT NULL::integer, NULL::bigint, NULL::integer, NULL::bytea, NULL::text,
            extract(epoch FROM due - now_)::double precision
        FROM {{schema}}.slots WHERE queue = queue_ AND due IS NOT NULL ORDER BY due LIMIT 1;
    END IF;
END $$;

-- How many leases hold longer now.
CREATE FUNCTION {{schema}}.extend(
    queue_ integer, slots_ integer[], numbers bigint[], leases integer[]
) RETURNS integer {_FUNCTION} AS $$
DECLARE
    count_ integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE {{schema}}.slots SET due = clock_timestamp() + (
        SELECT make_interval(secs => ack_wait) FROM {{schema}}.queues WHERE id = queue_
    ) WHERE queue = queue_ AND slot = ANY (ARRAY(
        SELECT slot FROM {{schema}}.slots
        WHERE queue = queue_ AND slot = ANY (slots_)
            AND lease = leases[array_position(numbers, number)]
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS count_ = ROW_COUNT;
    RETURN count_;
END $$;

-- The items are done, whoever has their leases by now. Whether the queue was full before.
CREATE FUNCTION {{schema}}.done(
    queue_ integer, slots_ integer[], numbers bigint[]
) RETURNS boolean {_FUNCTION} AS $$
DECLARE
    was_full boolean;
    emptied integer[];
BEGIN
    was_full := NOT EXISTS (
        SELECT FROM {{schema}}.slots WHERE queue = queue_ AND number IS NULL AND NOT is_extra
    );
    emptied := ARRAY(
        SELECT slot FROM {{schema}}.slots
        WHERE queue = queue_ AND slot = ANY (slots_) AND number = ANY (numbers)
        ORDER BY slot FOR UPDATE
    );
    UPDATE {{schema}}.slots SET number = NULL, rank = NULL, put_at = NULL, due = NULL,
        lease = NULL, deliveries = NULL, headers = NULL, data = NULL
    WHERE queue = queue_ AND slot = ANY (emptied);
    IF EXISTS (SELECT FROM {{schema}}.slots WHERE queue = queue_ AND is_extra) THEN
        PERFORM {{schema}}.remove_extra(queue_, emptied);
    END IF;
    RETURN was_full;
END $$;

-- Of slots that were emptied, remove as many as there are too many.
CREATE FUNCTION {{schema}}.remove_extra(
    queue_ integer, emptied integer[]
) RETURNS void {_FUNCTION} AS $$
DECLARE
    maxsize_ integer;
BEGIN
    SELECT maxsize INTO maxsize_ FROM {{schema}}.queues WHERE id = queue_ FOR UPDATE;
    DELETE FROM {{schema}}.slots WHERE queue = queue_ AND slot IN (
        SELECT slot FROM {{schema}}.slots WHERE queue = queue_ AND slot = ANY (emptied)
        ORDER BY is_extra DESC
        LIMIT (SELECT count(*) FROM {{schema}}.slots WHERE queue = queue_ AND is_extra)
    );
    UPDATE {{schema}}.slots SET is_extra = false WHERE queue = queue_ AND slot IN (
        SELECT slot FROM {{schema}}.slots WHERE queue = queue_ AND is_extra ORDER BY slot
        LIMIT maxsize_ - (
            SELECT count(*) FROM {{schema}}.slots WHERE queue = queue_ AND NOT is_extra
        )
    );
END $$;

-- The leases end, and the items may be handed out again in so many seconds.
CREATE FUNCTION {{schema}}.give_back(
    queue_ integer, slots_ integer[], numbers bigint[], leases integer[], delays double precision[]
) RETURNS integer {_FUNCTION} AS $$
DECLARE
    count_ integer;
BEGIN
    UPDATE {{schema}}.slots SET lease = NULL,
        due = clock_timestamp()
            + make_interval(secs => nullif(delays[array_position(numbers, number)], 0))
    WHERE queue = queue_ AND slot = ANY (ARRAY(
        SELECT slot FROM {{schema}}.slots
        WHERE queue = queue_ AND slot = ANY (slots_)
            AND lease = leases[array_position(numbers, number)]
        ORDER BY slot FOR UPDATE
    ));
    GET DIAGNOSTICS count_ = ROW_COUNT;
    RETURN count_;
END $$;

-- 'yes', 'full' or 'lost': as penstock.brokers.sql.rows.Kept.
CREATE FUNCTION {{schema}}.add_dead_letter(
    queue_ integer, slot_ integer, number_ bigint, lease_ integer, error_type_ text, error_ text
) RETURNS text {_FUNCTION} AS $$
BEGIN
    IF (SELECT count(*) FROM {{schema}}.dead_letters WHERE queue = queue_) >= (
        SELECT max_dead_letters FROM {{schema}}.queues WHERE id = queue_
    ) THEN
        RETURN 'full';
    END IF;
    INSERT INTO {{schema}}.dead_letters
        (queue, died_at, rank, headers, data, deliveries, error_type, error)
    SELECT queue, clock_timestamp(), rank, headers, data, deliveries, error_type_, error_
    FROM {{schema}}.slots
    WHERE queue = queue_ AND slot = slot_ AND number = number_ AND lease = lease_
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    PERFORM {{schema}}.done(queue_, ARRAY[slot_], ARRAY[number_]);
    RETURN 'yes';
END $$;

-- Back from the dead letters: 'new', 'full', or 'duplicate' where somebody else was faster.
CREATE FUNCTION {{schema}}.redrive(queue_ integer, number_ bigint) RETURNS text {_FUNCTION} AS $$
DECLARE
    letter {{schema}}.dead_letters;
BEGIN
    SELECT * INTO letter FROM {{schema}}.dead_letters
    WHERE queue = queue_ AND number = number_ FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'duplicate';
    END IF;
    IF (
        SELECT stored FROM {{schema}}.put_many(
            queue_, ARRAY[letter.data], ARRAY[letter.headers], ARRAY[letter.rank]
        )
    ) = 0 THEN
        RETURN 'full';
    END IF;
    DELETE FROM {{schema}}.dead_letters WHERE number = number_;
    RETURN 'new';
END $$;

CREATE FUNCTION {{schema}}.size(queue_ integer) RETURNS integer {_FOR_PRODUCERS} AS $$
BEGIN
    RETURN (SELECT count(*) FROM {{schema}}.slots WHERE queue = queue_ AND number IS NOT NULL);
END $$;

-- What a process did, for others that ask; NULL: it has closed the queue.
CREATE FUNCTION {{schema}}.tell(
    queue_ integer, key_ text, told_ text
) RETURNS void {_FOR_PRODUCERS} AS $$
DECLARE
    now_ timestamptz := clock_timestamp();
    ack_wait_ interval;
    dedupe_ interval;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF told_ IS NULL THEN
        DELETE FROM {{schema}}.processes WHERE key = key_;
        RETURN;
    END IF;
    INSERT INTO {{schema}}.processes VALUES (key_, queue_, now_, told_)
    ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at, told = excluded.told;
    SELECT make_interval(secs => ack_wait), make_interval(secs => dedupe) INTO ack_wait_, dedupe_
    FROM {{schema}}.queues WHERE id = queue_;
    DELETE FROM {{schema}}.processes WHERE key IN (
        SELECT key FROM {{schema}}.processes
        WHERE queue = queue_ AND seen_at < now_ - 2 * ack_wait_ FOR UPDATE SKIP LOCKED
    );
    DELETE FROM {{schema}}.ids WHERE queue = queue_ AND id IN (
        SELECT id FROM {{schema}}.ids WHERE queue = queue_ AND put_at <= now_ - dedupe_
        ORDER BY put_at LIMIT 10000 FOR UPDATE SKIP LOCKED
    );
END $$;

-- Nothing of it is for everybody: grant what a role needs.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {{schema}} FROM PUBLIC;
"""  # noqa: S608 - the names of schemas are checked

#: The steps; the version of a schema is how many of them were taken.
MIGRATIONS: Final = (_VERSION_1,)
