"""Procrastinate on psycopg 3's pool. `python -m benchmarks.rivals.with_procrastinate (install|work)`."""

import asyncio
import sys

from procrastinate import App, JobContext, PsycopgConnector

from benchmarks.rivals.notes import note

CONCURRENCY = 20
app = App(connector=PsycopgConnector(min_size=CONCURRENCY, max_size=CONCURRENCY + 2))


@app.task(name="event", pass_context=True)
async def event(context: JobContext, body: object) -> None:
    note(context.job.id)


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=True)


if __name__ == "__main__":
    asyncio.run(install() if sys.argv[1] == "install" else work())
