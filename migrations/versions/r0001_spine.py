"""The spine: events, attempts, deliveries, counts; days made and dropped; three roles.

         POST, committed
               │            handler returned ── or no interest in this type
               ▼          ┌────────────────────────────────────► processed ─┐
┌─► new, waiting ─ claim ─► new, held ── out of attempts, rejected,          ├─ replay ─► new, waiting
│        ▲   lease ended: claimed again │   no handler ──────────► failed ───┘
└────────┴── retry: due_at later ───────┘
"""

from migrations.sql import run

revision = "0001"
down_revision = None


def upgrade() -> None:
    for part in (EVENTS, ATTEMPTS, AROUND, READING, DAYS, ROLES, FIRST_DAYS):
        run(part)


EVENTS = """
CREATE TABLE hookd.events (
    id           uuid        NOT NULL,
    status       text        NOT NULL DEFAULT 'new',
    source       text        NOT NULL,
    event_type   text,
    delivery_id  text,
    received_at  timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    due_at       timestamptz NOT NULL DEFAULT now(),
    held_by      text,
    attempts     integer     NOT NULL DEFAULT 0,
    claims       integer     NOT NULL DEFAULT 0,
    reason       text,
    method       text        NOT NULL,
    target       text        NOT NULL,
    headers      jsonb       NOT NULL,
    remote       inet,
    payload      bytea       NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (id),
    CONSTRAINT events_status_known CHECK (status IN ('new', 'processed', 'failed')),
    CONSTRAINT events_finished_unless_new CHECK ((status = 'new') = (finished_at IS NULL)),
    CONSTRAINT events_held_only_while_new CHECK (held_by IS NULL OR status = 'new')
) PARTITION BY RANGE (id);

-- A compressed body is stored and read four times slower than one that is written out (8 KiB and up).
ALTER TABLE hookd.events ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE INDEX events_due ON hookd.events (due_at) WHERE status = 'new';
CREATE INDEX events_failed ON hookd.events (source, id) WHERE status = 'failed';

COMMENT ON TABLE hookd.events IS 'Every webhook that was answered with 2xx: the queue, the log and the status table in one. One partition a UTC day.';
COMMENT ON COLUMN hookd.events.id IS 'UUIDv7 minted by the receiver; its time is received_at';
COMMENT ON COLUMN hookd.events.status IS 'new: waiting or held; processed, failed: settled, until somebody replays it';
COMMENT ON COLUMN hookd.events.source IS 'first segment of the path after the prefix';
COMMENT ON COLUMN hookd.events.event_type IS 'the sender''s own name for the event, cut at 200 characters';
COMMENT ON COLUMN hookd.events.delivery_id IS 'the sender''s own name for the delivery, cut at 200 characters';
COMMENT ON COLUMN hookd.events.received_at IS 'when the request''s head was complete: the receiver''s clock, corrected by its offset from this server''s';
COMMENT ON COLUMN hookd.events.finished_at IS 'when it was settled, by this server''s clock; null exactly while new';
COMMENT ON COLUMN hookd.events.due_at IS 'when it may next be claimed: receipt (fresh), lease end (held), back-off end (retry), infinity (parked)';
COMMENT ON COLUMN hookd.events.held_by IS 'the process that holds it; null: waiting. With claims, the fence that keeps a late settle out';
COMMENT ON COLUMN hookd.events.attempts IS 'counted at the claim, so that a payload that kills its process cannot loop for ever; given back when handed over cleanly; 0 after a replay';
COMMENT ON COLUMN hookd.events.claims IS 'times claimed; never goes back';
COMMENT ON COLUMN hookd.events.reason IS 'null when a handler processed it; else why it stands as it does';
COMMENT ON COLUMN hookd.events.method IS 'of the request';
COMMENT ON COLUMN hookd.events.target IS 'path and query exactly as sent';
COMMENT ON COLUMN hookd.events.headers IS 'array of [name, value] in the order received, repeats kept; values as ISO-8859-1 text, so that every byte can be had back; see hookd.header()';
COMMENT ON COLUMN hookd.events.remote IS 'the peer, or the client named by a trusted proxy; null when it does not parse';
COMMENT ON COLUMN hookd.events.payload IS 'the body exactly as sent, also when compressed';
"""

ATTEMPTS = """
CREATE TABLE hookd.attempts (
    event_id  uuid        NOT NULL,
    claim     integer     NOT NULL,
    attempt   integer     NOT NULL,
    ended_at  timestamptz NOT NULL DEFAULT now(),
    error     text,
    traceback text,
    CONSTRAINT attempts_pkey PRIMARY KEY (event_id, claim)
) PARTITION BY RANGE (event_id);

COMMENT ON TABLE hookd.attempts IS 'One row for each failed attempt (HOOKD_RECORD_ATTEMPTS=all: for the good ones too). Dropped with its events.';
COMMENT ON COLUMN hookd.attempts.event_id IS 'hookd.events.id';
COMMENT ON COLUMN hookd.attempts.claim IS 'hookd.events.claims at that time: unlike the attempt''s number it never repeats';
COMMENT ON COLUMN hookd.attempts.attempt IS 'the attempt''s number since the last replay';
COMMENT ON COLUMN hookd.attempts.ended_at IS 'when it was settled';
COMMENT ON COLUMN hookd.attempts.error IS 'the failure''s last line; null: it went well';
COMMENT ON COLUMN hookd.attempts.traceback IS 'cut at 16 KiB';
"""

AROUND = """
CREATE TABLE hookd.deliveries (
    source     text        NOT NULL,
    key        text        NOT NULL,
    event_id   uuid        NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT deliveries_pkey PRIMARY KEY (source, key)
);
CREATE INDEX deliveries_expiring ON hookd.deliveries (expires_at);
COMMENT ON TABLE hookd.deliveries IS 'Who owns a delivery: the event that was handled for it. A later copy within the window is its duplicate.';
COMMENT ON COLUMN hookd.deliveries.source IS 'hookd.events.source';
COMMENT ON COLUMN hookd.deliveries.key IS 'the delivery''s name, at most 128 characters';
COMMENT ON COLUMN hookd.deliveries.event_id IS 'the event that owns the key';
COMMENT ON COLUMN hookd.deliveries.expires_at IS 'end of the window';

CREATE TABLE hookd.counts (
    day    date   NOT NULL,
    source text   NOT NULL,
    status text   NOT NULL,
    events bigint NOT NULL,
    CONSTRAINT counts_pkey PRIMARY KEY (day, source, status)
) WITH (fillfactor = 50);
COMMENT ON TABLE hookd.counts IS 'Settled events by the day they were received, source and status, kept by every settle and replay: nothing that people watch scans history.';
COMMENT ON COLUMN hookd.counts.day IS 'UTC day of received_at';
COMMENT ON COLUMN hookd.counts.source IS 'hookd.events.source; names beyond a hundred are ''other''';
COMMENT ON COLUMN hookd.counts.status IS 'processed or failed';
COMMENT ON COLUMN hookd.counts.events IS 'how many stand so now';

CREATE TABLE hookd.sources (
    name text NOT NULL,
    CONSTRAINT sources_pkey PRIMARY KEY (name),
    CONSTRAINT sources_name_is_a_segment CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$')
);
COMMENT ON TABLE hookd.sources IS 'Registered sources. From the first one on, receivers answer other names with 404 (HOOKD_UNKNOWN_SOURCES=auto).';
COMMENT ON COLUMN hookd.sources.name IS 'first segment of the path after the prefix';

CREATE TABLE hookd.maintenance (
    step         text        NOT NULL,
    succeeded_at timestamptz NOT NULL,
    detail       text,
    CONSTRAINT maintenance_pkey PRIMARY KEY (step)
);
COMMENT ON TABLE hookd.maintenance IS 'When each step of the processor''s maintenance last succeeded: a time that stands still is an alarm.';
COMMENT ON COLUMN hookd.maintenance.step IS 'days, retention, keys';
COMMENT ON COLUMN hookd.maintenance.succeeded_at IS 'by this server''s clock';
COMMENT ON COLUMN hookd.maintenance.detail IS 'what it did, or what it could not do yet';
"""

READING = """
CREATE FUNCTION hookd.uuid_at(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
COMMENT ON FUNCTION hookd.uuid_at IS 'The least UUIDv7 of that millisecond: `id >= hookd.uuid_at(now() - interval ''1 hour'')` reads only the days it needs.';

CREATE FUNCTION hookd.header(headers jsonb, name text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT pair ->> 1
          FROM jsonb_array_elements(headers) WITH ORDINALITY AS h(pair, n)
         WHERE lower(pair ->> 0) = lower(name)
         ORDER BY n
         LIMIT 1);
COMMENT ON FUNCTION hookd.header IS 'A header''s first value, whatever the case of its name: hookd.header(headers, ''X-GitHub-Event'').';
"""

# A default partition would block every change of a day and can poison itself, so there is none. LIKE + ATTACH takes
# SHARE UPDATE EXCLUSIVE on the parent: inserts and claims pass. A short lock_timeout keeps whoever waits behind the DDL
# from waiting long. SECURITY DEFINER: neither receiver nor processor owns anything.
DAYS = """
CREATE FUNCTION hookd.day_name(prefix text, day date) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN prefix || '_' || to_char(day, 'YYYYMMDD');

CREATE FUNCTION hookd.has_day(parent regclass, part text) RETURNS boolean
LANGUAGE sql STABLE STRICT
RETURN EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = parent AND c.relname = part);

CREATE FUNCTION hookd.add_day(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' SET timezone = 'UTC' AS $$
DECLARE
    parent text; key text; part text;
    low  uuid := hookd.uuid_at(day::timestamptz);
    high uuid := hookd.uuid_at((day + 1)::timestamptz);
BEGIN
    IF hookd.has_day('hookd.events', hookd.day_name('events', day)) THEN RETURN false; END IF;
    IF day NOT BETWEEN current_date - 3660 AND current_date + 31 THEN
        RAISE EXCEPTION '% is not a day hookd stores events of', day
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Is a clock wrong?';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('hookd.days'));
    IF hookd.has_day('hookd.events', hookd.day_name('events', day)) THEN RETURN false; END IF;
    FOR parent, key IN VALUES ('attempts', 'event_id'), ('events', 'id') LOOP
        part := hookd.day_name(parent, day);
        EXECUTE format('CREATE TABLE hookd.%I (LIKE hookd.%I INCLUDING ALL) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)', part, parent);
        EXECUTE format('ALTER TABLE hookd.%I ADD CONSTRAINT bounds CHECK (%I >= %L AND %I < %L)', part, key, low, key, high);
        EXECUTE format('ALTER TABLE hookd.%I ATTACH PARTITION hookd.%I FOR VALUES FROM (%L) TO (%L)', parent, part, low, high);
        EXECUTE format('ALTER TABLE hookd.%I DROP CONSTRAINT bounds', part);
    END LOOP;
    RETURN true;
END $$;
COMMENT ON FUNCTION hookd.add_day IS 'Make the partitions of a UTC day; false: they were there. 55P03: somebody holds a lock, try again.';

CREATE FUNCTION hookd.drop_day(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' SET timezone = 'UTC' AS $$
DECLARE
    parent text; waiting boolean;
    events_part text := hookd.day_name('events', day);
BEGIN
    IF NOT hookd.has_day('hookd.events', events_part) THEN RETURN 'absent'; END IF;
    IF day >= current_date THEN
        RAISE EXCEPTION '% has not ended', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('hookd.days'));
    IF NOT hookd.has_day('hookd.events', events_part) THEN RETURN 'absent'; END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM hookd.%I WHERE status = ''new'')', events_part) INTO waiting;
    IF waiting THEN RETURN 'kept'; END IF;
    BEGIN
        EXECUTE format('ALTER TABLE hookd.events DETACH PARTITION hookd.%I', events_part);
        -- Under DETACH's lock nothing changes any more: a replay that came between shows here, and the day is put back.
        EXECUTE format('SELECT EXISTS (SELECT FROM hookd.%I WHERE status = ''new'')', events_part) INTO waiting;
        IF waiting THEN RAISE EXCEPTION USING ERRCODE = 'object_in_use'; END IF;
    EXCEPTION WHEN object_in_use THEN
        RETURN 'kept';
    END;
    EXECUTE format('DROP TABLE hookd.%I', events_part);
    EXECUTE format('DROP TABLE IF EXISTS hookd.%I', hookd.day_name('attempts', day));
    DELETE FROM hookd.counts c WHERE c.day = drop_day.day;
    RETURN 'dropped';
END $$;
COMMENT ON FUNCTION hookd.drop_day IS 'Drop a day whose events are all settled: dropped; kept: one is still new; absent. 55P03: somebody reads it, try again.';

CREATE FUNCTION hookd.days() RETURNS TABLE (day date)
LANGUAGE sql STABLE
BEGIN ATOMIC
    -- CASE: a condition on the day may be tried on every relation before the join leaves only our partitions.
    SELECT CASE WHEN c.relname ~ '^events_[0-9]{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD') END AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'hookd.events'::regclass AND NOT i.inhdetachpending
     ORDER BY 1;
END;
COMMENT ON FUNCTION hookd.days IS 'The UTC days that have a partition.';
"""

ROLES = """
CREATE FUNCTION hookd.make_roles() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['hookd_receiver', 'hookd_processor', 'hookd_reader'] LOOP
        IF to_regrole(role) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another database's migration was quicker
            END;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA hookd TO %I', role);
        EXECUTE format('GRANT SELECT ON hookd.schema_version TO %I', role);
    END LOOP;

    GRANT INSERT (id, source, event_type, delivery_id, received_at, method, target, headers, remote, payload)
        ON hookd.events TO hookd_receiver;
    GRANT SELECT ON hookd.sources TO hookd_receiver;
    GRANT EXECUTE ON FUNCTION hookd.add_day TO hookd_receiver;

    GRANT SELECT ON ALL TABLES IN SCHEMA hookd TO hookd_processor, hookd_reader;
    GRANT UPDATE (status, event_type, delivery_id, finished_at, due_at, held_by, attempts, claims, reason)
        ON hookd.events TO hookd_processor;
    GRANT INSERT ON hookd.attempts TO hookd_processor;
    GRANT INSERT, UPDATE, DELETE ON hookd.deliveries, hookd.counts, hookd.maintenance TO hookd_processor;
    GRANT EXECUTE ON FUNCTION hookd.add_day, hookd.drop_day TO hookd_processor;
END $$;
COMMENT ON FUNCTION hookd.make_roles IS 'Make the roles hookd_receiver, hookd_processor and hookd_reader and give each what it needs, nothing more. May be run again.';

REVOKE EXECUTE ON FUNCTION hookd.add_day, hookd.drop_day, hookd.make_roles FROM PUBLIC;

DO $$
BEGIN
    PERFORM hookd.make_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'hookd: this role may not create roles; somebody who may can run: SELECT hookd.make_roles()';
END $$;
"""

FIRST_DAYS = """
SELECT hookd.add_day((now() AT TIME ZONE 'UTC')::date + n) FROM generate_series(0, 14) AS n;
"""
