"""The table that each rival of the receiver stores into: one INSERT a request, answered after its commit."""

TABLE = """
CREATE TABLE inbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    received_at timestamptz NOT NULL DEFAULT now(),
    source text NOT NULL,
    headers jsonb NOT NULL,
    payload bytea NOT NULL
)
"""
POOL_CONNECTIONS = 10
