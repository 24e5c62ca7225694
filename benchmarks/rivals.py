"""What the receiver is compared to: a server that stores nothing, and the receiver most people write.

`python -m benchmarks.rivals (nothing|insert) PORT [URL]`. Both run on uvloop, without an access log.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import uvloop
from aiohttp import web

ANSWER = b'{"id": "00000000-0000-7000-8000-000000000000"}'
TABLE = """
CREATE TABLE IF NOT EXISTS inbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    received_at timestamptz NOT NULL DEFAULT now(),
    source text NOT NULL,
    headers jsonb NOT NULL,
    payload bytea NOT NULL
)
"""
INSERT = "INSERT INTO inbox (source, headers, payload) VALUES ($1, $2, $3) RETURNING id"
POOL_CONNECTIONS = 10


async def answer_only(request: web.BaseRequest) -> web.StreamResponse:
    """Read the body, answer as many bytes as hookd does."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def serve_nothing(port: int) -> None:
    """aiohttp's low-level server: the most that one Python process of this kind can do."""
    server = web.Server(answer_only, access_log=None)
    await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


def inserting(pool: asyncpg.Pool) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def insert(request: web.Request) -> web.Response:
        body = await request.read()
        headers = json.dumps(list(request.headers.items()))
        event_id = await pool.fetchval(INSERT, request.match_info["source"], headers, body)
        return web.json_response({"id": str(event_id)})

    return insert


async def serve_inserts(port: int, url: str) -> None:
    """aiohttp's Application: a route, a pool, one INSERT and one commit for each request."""
    async with asyncpg.create_pool(url, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS) as pool:
        await pool.execute(TABLE)
        application = web.Application()
        application.router.add_post("/{source}", inserting(pool))
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    uvloop.run(serve_nothing(int(port)) if kind == "nothing" else serve_inserts(int(port), *rest))
