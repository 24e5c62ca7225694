"""The replier: a role for receivers whose handlers answer in the request.

It may what a receiver may, and hold, judge and settle what it inserts, as a processor does what it claims. It reads no
body and no header of what is there.
"""

from migrations.sql import run

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run(ROLES)


ROLES = """
CREATE OR REPLACE FUNCTION hookd.make_roles() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['hookd_receiver', 'hookd_replier', 'hookd_processor', 'hookd_reader'] LOOP
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
        ON hookd.events TO hookd_receiver, hookd_replier;
    REVOKE SELECT ON hookd.sources FROM hookd_receiver;
    GRANT SELECT (name) ON hookd.sources TO hookd_receiver, hookd_replier;
    GRANT SELECT ON hookd.receiver_sources, hookd.registry TO hookd_receiver, hookd_replier;
    GRANT EXECUTE ON FUNCTION hookd.add_day, hookd.keep_refused TO hookd_receiver, hookd_replier;

    GRANT INSERT (due_at, held_by, attempts, claims) ON hookd.events TO hookd_replier;
    GRANT SELECT (id, status, event_type, delivery_id, received_at, due_at, held_by, attempts, claims, reason, verdict)
        ON hookd.events TO hookd_replier;
    GRANT UPDATE (status, event_type, delivery_id, finished_at, due_at, held_by, attempts, claims, reason, verdict)
        ON hookd.events TO hookd_replier;
    GRANT INSERT ON hookd.attempts TO hookd_replier;
    GRANT SELECT, INSERT, UPDATE ON hookd.deliveries, hookd.counts TO hookd_replier;
    GRANT SELECT ON hookd.processor_sources TO hookd_replier;

    GRANT SELECT ON ALL TABLES IN SCHEMA hookd TO hookd_processor, hookd_reader;
    REVOKE SELECT ON hookd.secrets, hookd.receiver_sources, hookd.processor_sources FROM hookd_reader;
    GRANT SELECT (source, number, name, added_at, expires_at) ON hookd.secrets TO hookd_reader;
    GRANT UPDATE (status, event_type, delivery_id, finished_at, due_at, held_by, attempts, claims, reason, verdict, replayed)
        ON hookd.events TO hookd_processor;
    GRANT INSERT ON hookd.attempts TO hookd_processor;
    GRANT INSERT, UPDATE, DELETE ON hookd.deliveries, hookd.counts, hookd.maintenance TO hookd_processor;
    GRANT EXECUTE ON FUNCTION hookd.add_day, hookd.drop_day, hookd.forget_refused TO hookd_processor;
END $$;
COMMENT ON FUNCTION hookd.make_roles IS 'Make the roles hookd_receiver, hookd_replier, hookd_processor and hookd_reader and give each what it needs, nothing more. May be run again.';

DO $$
BEGIN
    PERFORM hookd.make_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'hookd: this role may not create roles; somebody who may can run: SELECT hookd.make_roles()';
END $$;
"""
