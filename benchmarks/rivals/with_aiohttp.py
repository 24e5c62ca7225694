"""aiohttp's Application and asyncpg: the receiver most people write. `… with_aiohttp PORT WORKERS`, on uvloop."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import asyncpg
from aiohttp import web

from benchmarks.rivals.inbox import POOL_CONNECTIONS
from benchmarks.rivals.workers import serve

INSERT = "INSERT INTO inbox (source, headers, payload) VALUES ($1, $2, $3) RETURNING id"


def inserting(pool: asyncpg.Pool) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def insert(request: web.Request) -> web.Response:
        body = await request.read()
        headers = json.dumps(list(request.headers.items()))
        event_id = await pool.fetchval(INSERT, request.match_info["source"], headers, body)
        return web.json_response({"id": str(event_id)})

    return insert


async def inserts(port: int) -> None:
    async with asyncpg.create_pool(min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS) as pool:
        application = web.Application()
        application.router.add_post("/{source}", inserting(pool))
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024, reuse_port=True).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    serve(inserts, int(sys.argv[1]), int(sys.argv[2]))
