"""aiohttp's low-level server, which stores nothing: the most that one Python process of this kind can do.

`python -m benchmarks.rivals.nothing PORT WORKERS`.
"""

import asyncio
import sys

from aiohttp import web

from benchmarks.rivals.workers import serve

ANSWER = b'{"id": "00000000-0000-7000-8000-000000000000"}'


async def answer_only(request: web.BaseRequest) -> web.StreamResponse:
    """Read the body, answer as many bytes as hookd does."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def nothing(port: int) -> None:
    server = web.Server(answer_only, access_log=None)
    loop = asyncio.get_running_loop()
    await loop.create_server(server, "127.0.0.1", port, backlog=1024, reuse_port=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve(nothing, int(sys.argv[1]), int(sys.argv[2]))
