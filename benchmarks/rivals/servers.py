"""The receivers: each rival's command line, in its documentation's own best settings for this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals.inbox import POOL_CONNECTIONS
from benchmarks.rivals.packages import NO_PACKAGES, Packages
from rig.processes import HOOKD, PYTHON

ROOM = Path(__file__).parent
ADVISED_WORKERS = 5  # gunicorn's own advice: twice the cores, and one more
INBOX = "inbox"


@dataclass(frozen=True)
class Server:
    """`command` takes a port and how many worker processes there are to be."""

    name: str
    command: Callable[[int, int], tuple[str, ...]]
    settings: str
    table: str | None = INBOX
    packages: Packages = NO_PACKAGES
    has_workers: bool = True  # as many as are asked for


def _gunicorn(workers: int, threads: int, port: int) -> tuple[str, ...]:
    return (
        *("env", f"BENCH_THREADS={threads}", *PYTHON, "gunicorn", "benchmarks.rivals.with_flask:app"),
        *("--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", "gthread"),
        *("--threads", str(threads), "--backlog", "1024", "--no-control-socket"),
    )


def _uvicorn(port: int, workers: int) -> tuple[str, ...]:
    return (
        *(*PYTHON, "uvicorn", "benchmarks.rivals.with_fastapi:app", "--port", str(port), "--workers", str(workers)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    )


def _python(module: str) -> Callable[[int, int], tuple[str, ...]]:
    return lambda port, workers: (*PYTHON, f"benchmarks.rivals.{module}", str(port), str(workers))


def _node(file: str) -> Callable[[int, int], tuple[str, ...]]:
    return lambda port, workers: ("node", str(ROOM / file), str(port), str(workers))


OURS = Server(
    "hookd",
    lambda port, workers: (*HOOKD, "ingest", "--port", str(port), "--workers", str(workers)),
    "as shipped",
    table="hookd.events",
)
NOTHING = Server("answers without storing", _python("nothing"), "aiohttp's web.Server on uvloop", table=None)
INSERT = Server("one INSERT a request", _python("with_aiohttp"), "aiohttp's Application on uvloop, asyncpg")
FLASK = Packages(python=("flask", "gunicorn", "psycopg", "psycopg-pool"))
RIVALS = (
    Server(
        "FastAPI + SQLAlchemy",
        _uvicorn,
        "uvicorn --loop uvloop --http httptools, no access log; ORM session, expire_on_commit off, prepared statements",
        packages=Packages(python=("fastapi", "uvicorn", "httptools", "sqlalchemy", "asyncpg")),
    ),
    Server(
        "Flask + psycopg",
        lambda port, workers: _gunicorn(workers, POOL_CONNECTIONS, port),
        f"gunicorn, gthread, {POOL_CONNECTIONS} threads a worker; autocommit",
        packages=FLASK,
    ),
    Server(
        f"Flask + psycopg, {ADVISED_WORKERS} workers",
        lambda port, _: _gunicorn(ADVISED_WORKERS, POOL_CONNECTIONS // ADVISED_WORKERS, port),
        f"as many as gunicorn advises for two cores, {POOL_CONNECTIONS // ADVISED_WORKERS} threads each; autocommit",
        packages=FLASK,
        has_workers=False,
    ),
    Server(
        "Express + pg",
        _node("with_express.js"),
        "NODE_ENV=production, prepared statement",
        packages=Packages(node=("express", "pg")),
    ),
    Server(
        "Fastify + pg",
        _node("with_fastify.js"),
        "an answer's schema, prepared statement",
        packages=Packages(node=("fastify", "pg")),
    ),
)
