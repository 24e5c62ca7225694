"""A past, as years of traffic would have left it: settled rows, spread over days and sources."""

from chassis.database import Connection

# Bodies are small: what a claim, a settle or a status page might trip over is the number of rows, not their bytes.
ROWS = """
INSERT INTO hookd.events (id, status, source, received_at, finished_at, due_at, claims, attempts, method, target,
                          headers, payload)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(noise, 1, 3)
        || '8' || substr(noise, 4, 15))::uuid,
       CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'processed' END, 'source-' || n % $4, at, at, at, 1, 1,
       'POST', '/history', '[["Content-Type", "application/json"]]', '\\x7b7d'
  FROM (SELECT n, md5(n::text) AS noise, $1::timestamptz + n * ($2::interval / $3) AS at
          FROM generate_series(0, $3 - 1) AS n) AS each
"""
FAILED_HAVE_REASONS = "UPDATE hookd.events SET reason = 'history' WHERE status = 'failed' AND reason IS NULL"
COUNTS = """
INSERT INTO hookd.counts (day, source, status, events)
SELECT (received_at AT TIME ZONE 'UTC')::date, source, status, count(*) FROM hookd.events
 WHERE status <> 'new' GROUP BY 1, 2, 3
ON CONFLICT (day, source, status) DO UPDATE SET events = excluded.events
"""
ADD_DAYS = """
SELECT hookd.add_day(day::date)
  FROM generate_series((now() AT TIME ZONE 'UTC')::date - $1::int, (now() AT TIME ZONE 'UTC')::date, '1 day') AS day
"""


async def past(connection: Connection, rows: int, days: int, sources: int = 20) -> None:
    """`rows` settled events of the last `days` days (their partitions are made), of so many sources; analysed."""
    await connection.execute("SET timezone = 'UTC'")
    await connection.fetch(ADD_DAYS, days - 1)
    if rows:
        began = await connection.fetchval("SELECT date_trunc('day', now()) - make_interval(days => $1::int)", days - 1)
        span = await connection.fetchval("SELECT now() - $1::timestamptz - interval '1 minute'", began)
        await connection.execute(ROWS, began, span, rows, sources, timeout=1800)
        await connection.execute(FAILED_HAVE_REASONS, timeout=600)
        await connection.execute(COUNTS, timeout=600)
    await connection.execute("VACUUM ANALYZE hookd.events", timeout=1800)
