"""Sources: who sends, how it is verified, what is answered; secrets, sealed; what was refused at the edge.

An event bears its verdict: null until it was judged, `verified`, or what it failed by.
"""

from migrations.sql import run

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for part in (EVENTS, SOURCES, SECRETS, REGISTRY, REFUSED, ROLES):
        run(part)


EVENTS = """
ALTER TABLE hookd.events
    ADD COLUMN verdict  text,
    ADD COLUMN replayed boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN hookd.events.verdict IS 'verified, or the check that failed and why; null: not judged (yet)';
COMMENT ON COLUMN hookd.events.replayed IS 'somebody set it back to new: it takes its delivery''s key from whoever owns it';
"""

SOURCES = """
ALTER TABLE hookd.sources
    ADD COLUMN provider               text        NOT NULL DEFAULT 'none',
    ADD COLUMN mode                   text        NOT NULL DEFAULT 'off',
    ADD COLUMN options                jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN methods                text[]      NOT NULL DEFAULT '{POST}',
    ADD COLUMN answer                 jsonb,
    ADD COLUMN body_bytes_max         bigint,
    ADD COLUMN commit_timeout_seconds float8,
    ADD COLUMN duplicates             text        NOT NULL DEFAULT 'verified',
    ADD COLUMN window_seconds         integer     NOT NULL DEFAULT 604800,
    ADD COLUMN at_receipt             boolean     NOT NULL DEFAULT false,
    ADD COLUMN is_probe               boolean     NOT NULL DEFAULT false,
    ADD COLUMN added_at               timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN changed_at             timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT sources_mode_known CHECK (mode IN ('deferred', 'edge', 'monitor', 'off')),
    ADD CONSTRAINT sources_duplicates_known CHECK (duplicates IN ('verified', 'all', 'none')),
    ADD CONSTRAINT sources_limits_positive CHECK (
        window_seconds > 0 AND coalesce(body_bytes_max, 1) > 0 AND coalesce(commit_timeout_seconds, 1) > 0),
    ADD CONSTRAINT sources_take_a_method CHECK (cardinality(methods) > 0);
COMMENT ON COLUMN hookd.sources.provider IS 'who sends: github, stripe, …, hmac, none (see hookd verify --help)';
COMMENT ON COLUMN hookd.sources.mode IS 'deferred: judged by the processor; edge: before the answer; monitor: judged and recorded, never refused; off';
COMMENT ON COLUMN hookd.sources.options IS 'what the provider needs beyond its secrets, by name';
COMMENT ON COLUMN hookd.sources.methods IS 'methods that are stored';
COMMENT ON COLUMN hookd.sources.answer IS 'the answer to what was stored: {"status": 200, "headers": [["name", "value"]], "body": "…"}; null: the provider''s';
COMMENT ON COLUMN hookd.sources.body_bytes_max IS 'null: HOOKD_BODY_BYTES_MAX, which it cannot exceed';
COMMENT ON COLUMN hookd.sources.commit_timeout_seconds IS 'null: the provider''s patience less a second, or HOOKD_COMMIT_TIMEOUT_SECONDS';
COMMENT ON COLUMN hookd.sources.duplicates IS 'which events are compared with earlier ones: verified, all (also what nobody verified), none';
COMMENT ON COLUMN hookd.sources.window_seconds IS 'how long a delivery''s key is remembered';
COMMENT ON COLUMN hookd.sources.at_receipt IS 'the receiver needs the secrets: it judges, or answers handshakes';
COMMENT ON COLUMN hookd.sources.is_probe IS 'made by hookd doctor: judged, and no handler runs';
COMMENT ON COLUMN hookd.sources.added_at IS 'by this server''s clock';
COMMENT ON COLUMN hookd.sources.changed_at IS 'by this server''s clock';
"""

SECRETS = """
CREATE TABLE hookd.secrets (
    source     text        NOT NULL,
    number     bigint      GENERATED ALWAYS AS IDENTITY,
    name       text        NOT NULL DEFAULT 'secret',
    sealed     text        NOT NULL,
    added_at   timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    CONSTRAINT secrets_pkey PRIMARY KEY (source, number),
    CONSTRAINT secrets_source_fkey FOREIGN KEY (source) REFERENCES hookd.sources (name) ON DELETE CASCADE
);
COMMENT ON TABLE hookd.secrets IS 'What sources are verified by, sealed (Fernet, key HOOKD_SECRET_KEY). The newest of a name is the current one.';
COMMENT ON COLUMN hookd.secrets.source IS 'hookd.sources.name';
COMMENT ON COLUMN hookd.secrets.number IS 'the higher, the newer';
COMMENT ON COLUMN hookd.secrets.name IS 'secret, or the option of the provider that is one';
COMMENT ON COLUMN hookd.secrets.sealed IS 'a Fernet token';
COMMENT ON COLUMN hookd.secrets.added_at IS 'by this server''s clock';
COMMENT ON COLUMN hookd.secrets.expires_at IS 'good for what was received before; null: for ever';
"""

# One row that every change locks: revisions are committed in their order, so that whoever has seen one has seen all
# before it. (A time or a sequence would be taken at the change and seen at the commit.)
REGISTRY = """
CREATE TABLE hookd.registry (
    one      boolean NOT NULL DEFAULT true,
    revision bigint  NOT NULL DEFAULT 0,
    CONSTRAINT registry_pkey PRIMARY KEY (one),
    CONSTRAINT registry_is_one_row CHECK (one)
);
INSERT INTO hookd.registry DEFAULT VALUES;
COMMENT ON TABLE hookd.registry IS 'One row: it tells receivers and processors that sources or secrets have changed.';
COMMENT ON COLUMN hookd.registry.one IS 'always true';
COMMENT ON COLUMN hookd.registry.revision IS 'higher after each change';

CREATE FUNCTION hookd.registry_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
    UPDATE hookd.registry SET revision = revision + 1;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION hookd.registry_changed IS 'Trigger: count a change of sources or secrets.';

CREATE TRIGGER sources_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON hookd.sources
    FOR EACH STATEMENT EXECUTE FUNCTION hookd.registry_changed();
CREATE TRIGGER secrets_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON hookd.secrets
    FOR EACH STATEMENT EXECUTE FUNCTION hookd.registry_changed();

CREATE VIEW hookd.receiver_sources AS
SELECT s.name, s.provider, s.mode, s.options, s.methods, s.answer, s.body_bytes_max, s.commit_timeout_seconds,
       s.duplicates, s.window_seconds, s.is_probe,
       CASE WHEN s.at_receipt THEN
            (SELECT jsonb_agg(jsonb_build_array(x.name, x.sealed, extract(epoch FROM x.expires_at)) ORDER BY x.number DESC)
               FROM hookd.secrets x WHERE x.source = s.name)
       END AS secrets
  FROM hookd.sources s;
COMMENT ON VIEW hookd.receiver_sources IS 'What a receiver knows of sources: secrets only where it needs them.';

CREATE VIEW hookd.processor_sources AS
SELECT s.name, s.provider, s.mode, s.options, s.methods, s.answer, s.body_bytes_max, s.commit_timeout_seconds,
       s.duplicates, s.window_seconds, s.is_probe,
       (SELECT jsonb_agg(jsonb_build_array(x.name, x.sealed, extract(epoch FROM x.expires_at)) ORDER BY x.number DESC)
          FROM hookd.secrets x WHERE x.source = s.name) AS secrets
  FROM hookd.sources s;
COMMENT ON VIEW hookd.processor_sources IS 'What a processor knows of sources, with all their secrets.';
"""

# The one exception to "a 4xx is never stored". A receiver cannot write a status, so these two do it for it, within
# limits of number (at the insert) and age (by maintenance).
REFUSED = """
CREATE TABLE hookd.refused (
    event_id   uuid        NOT NULL,
    source     text        NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT refused_pkey PRIMARY KEY (event_id)
);
CREATE INDEX refused_by_source ON hookd.refused (source, refused_at);
COMMENT ON TABLE hookd.refused IS 'Events refused at the edge and kept as failed rows, to be judged again by a replay; the oldest are forgotten.';
COMMENT ON COLUMN hookd.refused.event_id IS 'hookd.events.id';
COMMENT ON COLUMN hookd.refused.source IS 'hookd.events.source';
COMMENT ON COLUMN hookd.refused.refused_at IS 'by this server''s clock';

CREATE FUNCTION hookd.keep_refused(
    id uuid, source text, event_type text, delivery_id text, received_at timestamptz, method text, target text,
    headers jsonb, remote inet, payload bytea, verdict text, rows_max integer
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    IF verdict = 'verified' OR NOT EXISTS (
        SELECT FROM hookd.sources s WHERE s.name = keep_refused.source AND s.mode = 'edge') THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('hookd.refused'), hashtext(source));
    IF (SELECT count(*) FROM (SELECT FROM hookd.refused r WHERE r.source = keep_refused.source LIMIT rows_max) kept)
       >= rows_max THEN
        RETURN false;
    END IF;
    INSERT INTO hookd.events (id, status, finished_at, reason, verdict, source, event_type, delivery_id, received_at,
                              method, target, headers, remote, payload)
    VALUES (id, 'failed', now(), left('refused at the edge: ' || verdict, 500), verdict, source, event_type,
            delivery_id, received_at, method, target, headers, remote, payload);
    INSERT INTO hookd.refused (event_id, source) VALUES (id, source);
    INSERT INTO hookd.counts AS c (day, source, status, events)
    VALUES ((received_at AT TIME ZONE 'UTC')::date, source, 'failed', 1)
    ON CONFLICT ON CONSTRAINT counts_pkey DO UPDATE SET events = c.events + 1;
    RETURN true;
END $$;
COMMENT ON FUNCTION hookd.keep_refused IS 'Keep a request that was refused at the edge as a failed event; false: there are rows_max of its source already.';

CREATE FUNCTION hookd.forget_refused(older_than interval, rows_max integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
BEGIN ATOMIC
    WITH old AS (
        DELETE FROM hookd.refused r
         WHERE r.event_id IN (SELECT o.event_id FROM hookd.refused o WHERE o.refused_at < now() - older_than
                               ORDER BY o.refused_at LIMIT rows_max)
        RETURNING r.event_id),
    gone AS (
        DELETE FROM hookd.events e
         USING old
         WHERE e.id = old.event_id AND e.id = ANY(ARRAY(SELECT event_id FROM old))
           AND e.status = 'failed' AND e.verdict <> 'verified'
        RETURNING e.source, (e.received_at AT TIME ZONE 'UTC')::date AS day),
    counted AS (
        UPDATE hookd.counts c SET events = c.events - g.events
          FROM (SELECT day, source, count(*) AS events FROM gone GROUP BY 1, 2) AS g
         WHERE c.day = g.day AND c.source = g.source AND c.status = 'failed'
        RETURNING 1)
    SELECT count(*)::integer FROM old;
END;
COMMENT ON FUNCTION hookd.forget_refused IS 'Delete what was refused at the edge that long ago, unless it was judged again and verified; how many were looked at.';
"""

ROLES = """
CREATE OR REPLACE FUNCTION hookd.make_roles() RETURNS void
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

    GRANT INSERT (id, source, event_type, delivery_id, received_at, method, target, headers, remote, payload, verdict)
        ON hookd.events TO hookd_receiver;
    REVOKE SELECT ON hookd.sources FROM hookd_receiver;
    GRANT SELECT (name) ON hookd.sources TO hookd_receiver;
    GRANT SELECT ON hookd.receiver_sources, hookd.registry TO hookd_receiver;
    GRANT EXECUTE ON FUNCTION hookd.add_day, hookd.keep_refused TO hookd_receiver;

    GRANT SELECT ON ALL TABLES IN SCHEMA hookd TO hookd_processor, hookd_reader;
    REVOKE SELECT ON hookd.secrets, hookd.receiver_sources, hookd.processor_sources FROM hookd_reader;
    GRANT SELECT (source, number, name, added_at, expires_at) ON hookd.secrets TO hookd_reader;
    GRANT UPDATE (status, event_type, delivery_id, finished_at, due_at, held_by, attempts, claims, reason, verdict, replayed)
        ON hookd.events TO hookd_processor;
    GRANT INSERT ON hookd.attempts TO hookd_processor;
    GRANT INSERT, UPDATE, DELETE ON hookd.deliveries, hookd.counts, hookd.maintenance TO hookd_processor;
    GRANT EXECUTE ON FUNCTION hookd.add_day, hookd.drop_day, hookd.forget_refused TO hookd_processor;
END $$;

REVOKE EXECUTE ON FUNCTION hookd.keep_refused, hookd.forget_refused, hookd.registry_changed FROM PUBLIC;

DO $$
BEGIN
    PERFORM hookd.make_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'hookd: this role may not create roles; somebody who may can run: SELECT hookd.make_roles()';
END $$;
"""
