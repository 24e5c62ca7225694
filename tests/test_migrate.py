"""`hookd migrate`: what it does to a database, or why it does nothing."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from chassis.database import Connection
from chassis.embedded import Embedded, binaries
from migrations.revisions import known, latest
from migrations.upgrade import FOLDER
from tests.commands import Hookd
from tests.databases import execute

pytestmark = pytest.mark.all_days

SCHEMA = """
SELECT c.relname, c.relkind::text, c.reloptions, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attstorage::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum),
       c.relacl::text, a.attacl::text
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'hookd'::regnamespace
 ORDER BY c.relname, a.attnum
"""
FUNCTIONS = """
SELECT proname, pg_get_functiondef(oid), proacl::text, obj_description(oid)
  FROM pg_proc WHERE pronamespace = 'hookd'::regnamespace ORDER BY proname
"""
DAYS = "SELECT day - (now() AT TIME ZONE 'UTC')::date FROM hookd.days() ORDER BY 1"


@pytest.fixture
def hookd(empty_database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": empty_database_url})


@pytest.fixture
def migrated(database_url: str, tmp_path: Path) -> Hookd:
    """The same on a database that is up to date."""
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a server of a test's own, which every account may enter."""
    with tempfile.TemporaryDirectory(prefix="hookd-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def connect(hookd: Hookd) -> Connection:
    connection: Connection = await asyncpg.connect(hookd.settings["HOOKD_DATABASE_URL"])
    return connection


async def test_a_fresh_database_then_an_up_to_date_one(hookd: Hookd) -> None:
    """The first migration makes the schema and fifteen days, the second changes nothing; each says so in a line."""
    first, second = hookd("migrate"), hookd("migrate")
    assert (first.code, first.out, first.err) == (0, f"schema hookd made: revision {latest()}\n", "")
    assert (second.code, second.out, second.err) == (0, f"up to date: revision {latest()}\n", "")
    connection = await connect(hookd)
    assert [record[0] for record in await connection.fetch(DAYS)] == list(range(15))
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    await connection.close()


def test_every_revision_is_known() -> None:
    """Those that files are named after are those that Alembic would run."""
    assert known() == [script.revision for script in reversed([*ScriptDirectory(str(FOLDER)).walk_revisions()])]


async def test_missing_days_are_made(migrated: Hookd) -> None:
    """A migration of an up-to-date database makes the days ahead that are missing."""
    connection = await connect(migrated)
    tomorrow = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date + 1")
    for day in (tomorrow, tomorrow + timedelta(days=13)):
        await connection.execute(f"DROP TABLE hookd.events_{day:%Y%m%d}, hookd.attempts_{day:%Y%m%d}")
    assert migrated("migrate").code == 0
    assert [record[0] for record in await connection.fetch(DAYS)] == list(range(15))
    await connection.close()


async def test_a_newer_database_is_left_as_it_is(migrated: Hookd) -> None:
    """A revision this hookd does not know is a newer one's, which only adds: nothing to do, and no failure."""
    await execute(migrated.settings["HOOKD_DATABASE_URL"], "UPDATE hookd.schema_version SET version_num = '9999'")
    done = migrated("migrate")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"revision 9999 is newer than this hookd knows ({latest()}): left as it is\n"


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE hookd.events ()",
        "CREATE TABLE hookd.schema_version (version_num text); CREATE VIEW hookd.v AS SELECT 1",
    ],
)
async def test_a_schema_of_somebody_elses_is_refused(hookd: Hookd, theirs: str) -> None:
    """A schema hookd that no hookd made is not touched."""
    await execute(hookd.settings["HOOKD_DATABASE_URL"], f"CREATE SCHEMA hookd; {theirs}")
    done = hookd("migrate")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "schema hookd has tables that no hookd made" in done.err


async def test_a_schema_that_waits_for_its_tables_is_used(hookd: Hookd) -> None:
    """A DBA may make the empty schema beforehand, for a role that may make none."""
    url = hookd.settings["HOOKD_DATABASE_URL"]
    role = f"owner_{os.urandom(8).hex()}"
    await execute(url, f"CREATE ROLE {role}; CREATE SCHEMA hookd AUTHORIZATION {role}")
    done = hookd.having(HOOKD_DATABASE_URL=f"{url}&role={role}")("migrate")
    assert (done.code, done.out) == (0, f"schema hookd made: revision {latest()}\n"), done.err
    await execute(url, f"DROP SCHEMA hookd CASCADE; DROP ROLE {role}")


async def test_a_role_that_may_not_is_told_who_may(hookd: Hookd) -> None:
    """Without the right to create, nothing is changed, and one line says what to do."""
    url = hookd.settings["HOOKD_DATABASE_URL"]
    role = f"nobody_{os.urandom(8).hex()}"
    await execute(url, f"CREATE ROLE {role}")
    done = hookd.having(HOOKD_DATABASE_URL=f"{url}&role={role}")("migrate")
    await execute(url, f"DROP ROLE {role}")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith("Error: permission denied for database")
    assert "hookd migrate --sql" in done.err


async def test_a_second_migration_waits_for_the_first(hookd: Hookd) -> None:
    """While another migration runs the second says so and waits; then it finds the work done, or does it."""
    connection = await connect(hookd)
    await connection.execute("SELECT pg_advisory_lock(hashtext('hookd.migrate'))")
    with hookd.start("migrate") as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "another migration is running; waiting\n"
        await connection.execute("SELECT pg_advisory_unlock(hashtext('hookd.migrate'))")
        out, err = child.communicate()
    assert (child.returncode, out, err) == (0, f"schema hookd made: revision {latest()}\n", "")
    await connection.close()


async def test_an_up_to_date_database_waits_for_nobody(migrated: Hookd) -> None:
    """Where there is nothing to bring, another migration is not in the way."""
    connection = await connect(migrated)
    await connection.execute("SELECT pg_advisory_lock(hashtext('hookd.migrate'))")
    done = migrated("migrate")
    assert (done.code, done.out, done.err) == (0, f"up to date: revision {latest()}\n", "")
    await connection.close()


async def test_two_at_once_both_end_well(hookd: Hookd) -> None:
    """Of two migrations of a fresh database one makes the schema, and both exit with 0."""
    both = [hookd.start("migrate") for _ in range(2)]
    said = sorted(child.communicate()[0] for child in both)
    assert [child.returncode for child in both] == [0, 0]
    assert said == [f"schema hookd made: revision {latest()}\n", f"up to date: revision {latest()}\n"]


async def test_a_table_that_is_read_does_not_stop_a_day(migrated: Hookd) -> None:
    """Days are made beside whoever reads; a lock that stays is told, and the migration has succeeded."""
    connection = await connect(migrated)
    last = await connection.fetchval("SELECT max(day) FROM hookd.days()")
    await connection.execute(f"DROP TABLE hookd.events_{last:%Y%m%d}, hookd.attempts_{last:%Y%m%d}")
    async with connection.transaction():
        await connection.execute("LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE")
        done = migrated("migrate")
    assert (done.code, done.out) == (0, f"up to date: revision {latest()}\n")
    assert done.err == "warning: 1 days ahead not made, for somebody holds a lock\n"
    await connection.close()


async def test_the_script_makes_the_same_schema(hookd: Hookd, tmp_path: Path, connection: Connection) -> None:
    """What --sql prints, run by psql, makes what a migration makes; it needs no database to be printed."""
    script = hookd.having(HOOKD_DATABASE_URL="postgresql://127.0.0.1:1/nowhere")("migrate", "--sql")
    assert (script.code, script.err) == (0, "")
    ran = subprocess.run(  # noqa: ASYNC221 - nothing else goes on
        [binaries() / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", hookd.settings["HOOKD_DATABASE_URL"]],
        input=script.out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert hookd("migrate").out == f"up to date: revision {latest()}\n"
    theirs = await connect(hookd)
    for asked in (SCHEMA, FUNCTIONS):
        assert [tuple(row) for row in await theirs.fetch(asked)] == [
            tuple(row) for row in await connection.fetch(asked)
        ]
    await theirs.close()


async def test_missing_roles_are_told(place: Path, tmp_path: Path) -> None:
    """Where the migrating role may not create roles, all else is made, and a line says what somebody can run."""
    with Embedded(place / "data").serve() as url:
        await execute(url, "CREATE ROLE owner; GRANT CREATE ON DATABASE hookd TO owner")
        done = Hookd(tmp_path, {"HOOKD_DATABASE_URL": f"{url}&role=owner"})("migrate")
        assert (done.code, done.out) == (0, f"schema hookd made: revision {latest()}\n"), done.err
        missing = "hookd_receiver, hookd_replier, hookd_processor, hookd_reader"
        assert done.err == f"warning: no role {missing}: somebody who may can run SELECT hookd.make_roles()\n"
        await execute(url, "SELECT hookd.make_roles()")
        again = Hookd(tmp_path, {"HOOKD_DATABASE_URL": f"{url}&role=owner"})("migrate")
        assert (again.code, again.err) == (0, "")


async def test_ctrl_c_while_waiting_changes_nothing(hookd: Hookd) -> None:
    """A migration that waits for another one can be stopped."""
    connection = await connect(hookd)
    await connection.execute("SELECT pg_advisory_lock(hashtext('hookd.migrate'))")
    with hookd.start("migrate") as child:
        assert child.stderr is not None
        child.stderr.readline()
        os.killpg(child.pid, signal.SIGINT)
        assert child.stderr.read().split() == ["stopped"]
    assert child.returncode == 130
    assert await connection.fetchval("SELECT to_regnamespace('hookd')") is None
    await connection.close()
