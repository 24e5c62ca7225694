"""The command line: its help, what every command refuses and how it ends, psql and the settings."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chassis.database import Connection
from chassis.embedded import binaries
from hookd import cli
from hookd.commands.psql import libpq
from tests.commands import HOOKD, Hookd
from tests.factories import an_event

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


# --- the front door -------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
def test_help_is_quick() -> None:
    """`hookd --help` takes less than 0.2 s of CPU. (The least of five: a busy machine makes any process dearer.)"""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*HOOKD, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert all(f"\n  {name}" in done.stdout for name in cli.COMMANDS)
    assert min(seconds) < 0.2


@pytest.mark.parametrize(
    "name", [[], *([name] for name in cli.COMMANDS)], ids=lambda name: name[0] if name else "hookd"
)
def test_each_command_has_help_with_an_example(name: list[str]) -> None:
    """Each command's --help exits with 0 and shows how to call it."""
    done = CliRunner().invoke(cli.hookd, [*name, "--help"])
    assert done.exit_code == 0
    assert re.search(rf"Examples?:\n +.*{' '.join(['hookd', *name])}", done.output)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Each command below, and below those."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("path", list(commands(cli.hookd)), ids=" ".join)
def test_an_example_stands_in_the_help_as_it_is_to_be_typed(path: tuple[str, ...]) -> None:
    """No line of it is joined with the next, or broken."""
    command: click.Command = cli.hookd
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name) or command
    shown = CliRunner().invoke(cli.hookd, [*path, "--help"]).output.splitlines()
    written = [line.removeprefix("\b") for line in (command.epilog or "").splitlines()]
    assert [line for line in written if f"  {line}".rstrip() not in shown] == []


def test_a_command_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    """An unknown command exits with 2 and one line about it."""
    done = Hookd(tmp_path, {})("evnets")
    assert (done.code, done.out) == (2, "")
    assert "No such command 'evnets'" in done.err


@pytest.mark.parametrize(
    "arguments", [("status",), ("event", "019b"), ("migrate",)], ids=lambda arguments: arguments[0]
)
def test_a_database_that_is_away_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without its database a command exits with 1 and says so in one line."""
    done = Hookd(tmp_path, {"HOOKD_DATABASE_URL": NOWHERE})(*arguments)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"Error: PostgreSQL cannot be reached: .+\n", done.err)


async def test_a_database_without_a_schema(tmp_path: Path, empty_database_url: str) -> None:
    """A command that finds no schema says: run hookd migrate."""
    done = Hookd(tmp_path, {"HOOKD_DATABASE_URL": empty_database_url})("events")
    assert (done.code, done.err) == (1, "Error: the database has no hookd schema yet: run hookd migrate\n")


@pytest.mark.any_server
async def test_a_closed_pipe_ends_a_command_quietly(hookd: Hookd) -> None:
    """`hookd status --watch --json | head -1` ends with the line, 0 and no complaint."""
    with hookd.start("status", "--watch", "--json") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait() == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


@pytest.mark.any_server
async def test_output_is_utf8_whatever_the_locale(hookd: Hookd, connection: Connection) -> None:
    """Text is printed as UTF-8, also where the locale promises less."""
    await an_event(connection, event_type="größer ☃")
    for locale in ({"LANG": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
        assert "größer ☃" in hookd.having(**locale)("events").out


async def test_a_full_disk_is_one_line(hookd: Hookd) -> None:
    """Output that cannot be written is an error in one line, not a traceback."""
    done = hookd("status", into=Path("/dev/full"))
    assert (done.code, done.err) == (1, "Error: [Errno 28] No space left on device\n")


@pytest.mark.any_server
async def test_bytes_that_are_no_text_are_wrong_usage(hookd: Hookd) -> None:
    """An argument that is not UTF-8 exits with 2."""
    done = hookd("events", "--source", "\udcff")
    assert done.code == 2
    assert done.err.endswith("expected UTF-8\n")


# --- psql -----------------------------------------------------------------------------------------------------------

# The wheel's psql, whatever the machine has.
WITH_PSQL = {"PATH": f"{binaries()}:{os.environ['PATH']}"}


async def test_psql_is_on_the_same_database(hookd: Hookd, connection: Connection) -> None:
    """`hookd psql` needs no schema's name, hands on every argument and ends with psql's own exit code."""
    await an_event(connection)
    done = hookd.having(**WITH_PSQL)("psql", "-X", "-A", "-t", "-c", "SELECT source, current_database() FROM events")
    assert done.out == f"demo|{await connection.fetchval('SELECT current_database()')}\n"
    assert hookd.having(**WITH_PSQL)("psql", "-Xv", "ON_ERROR_STOP=1", "-c", "SELECT nonsense").code == 1
    assert hookd.having(**WITH_PSQL)("psql", "--no-such-option").code == 1
    assert "psql is the PostgreSQL interactive terminal" in hookd.having(**WITH_PSQL)("psql", "--", "--help").out


@pytest.mark.any_server
async def test_no_psql_is_one_line(hookd: Hookd) -> None:
    """Without psql on the PATH the command says what to install."""
    done = hookd.having(PATH="/nonexistent")("psql")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "apt install postgresql-client" in done.err


@pytest.mark.any_server
async def test_a_password_is_not_in_the_process_list(hookd: Hookd) -> None:
    """psql's command line, which everybody can read, has the arguments given and nothing of the URL."""
    url = hookd.settings["HOOKD_DATABASE_URL"].replace("hookd@", "hookd:s3cret@")
    hookd = hookd.having(HOOKD_DATABASE_URL=url, **WITH_PSQL)
    shown = hookd("psql", "-Xc", r"\! tr '\0' ' ' < /proc/$PPID/cmdline").out
    assert shown == f"{binaries() / 'psql'} -Xc \\! tr '\\0' ' ' < /proc/$PPID/cmdline "


def test_a_url_becomes_the_environment_of_libpq() -> None:
    """User, password, hosts, ports, database and TLS travel as libpq's variables, settings as options."""
    ours = "-c search_path=hookd,public"
    assert libpq("postgresql://", {}) == {"PGOPTIONS": ours}
    assert libpq("postgres://me:a%40b@[::1]:5433,db.example/my%20app?sslmode=require&role=a%20b", {}) == {
        "PGUSER": "me",
        "PGPASSWORD": "a@b",
        "PGHOST": "::1,db.example",
        "PGPORT": "5433,",
        "PGDATABASE": "my app",
        "PGSSLMODE": "require",
        "PGOPTIONS": rf"-c role=a\ b {ours}",
    }
    assert libpq("postgresql://hookd@/hookd?host=/a%20b/socket&port=5432&options=-c%20jit%3Doff", {}) == {
        "PGUSER": "hookd",
        "PGHOST": "/a b/socket",
        "PGPORT": "5432",
        "PGDATABASE": "hookd",
        "PGOPTIONS": f"-c jit=off {ours}",
    }
    assert libpq("postgresql://h/d", {"PGOPTIONS": "-c a=b"})["PGOPTIONS"] == f"-c a=b {ours}"


async def test_ctrl_c_is_left_to_psql(hookd: Hookd, connection: Connection) -> None:
    """Ctrl-C cancels psql's query; hookd waits for psql and passes its exit code on."""
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()"
    with hookd.having(**WITH_PSQL).start("psql", "-X", "-c", "SELECT pg_sleep(600)") as child:
        while not await connection.fetchval(running):
            assert child.poll() is None
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate()
    assert child.returncode == 1
    assert "canceling statement due to user request" in out + err


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_tell_where_they_come_from(tmp_path: Path) -> None:
    """Each setting has its value, its origin and its meaning; a secret is not shown."""
    (tmp_path / ".env").write_text("HOOKD_PORT=8001\nHOOKD_WORKERS=2\n")
    (tmp_path / "hookd.toml").write_text("workers = 3\nretention_days = 90\n")
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://me:s3cret@h/d", "HOOKD_HOST": "0.0.0.0"})
    [settings] = hookd("settings", "--json").json
    found = {name: (each["value"], each["origin"]) for name, each in settings.items() if isinstance(each, dict)}
    assert found["HOOKD_HOST"] == ("0.0.0.0", "environment")
    assert found["HOOKD_PORT"] == ("8001", ".env")
    assert found["HOOKD_WORKERS"] == ("2", ".env")
    assert found["HOOKD_RETENTION_DAYS"] == ("90", "hookd.toml")
    assert found["HOOKD_PREFIX"] == ("", "default")
    assert set(found["HOOKD_DATABASE_URL"][0]) == {"*"}
    for done in (hookd("settings"), hookd.on_terminal("settings")):
        assert "s3cret" not in done.out
        assert "HOOKD_RETENTION_DAYS" in done.out


def test_settings_fit_a_narrow_terminal(tmp_path: Path) -> None:
    """On 80 columns each setting has a line, and its meaning the full width below it."""
    (tmp_path / ".env").write_text("HOOKD_PORT=8001\n")
    lines = Hookd(tmp_path, {}).on_terminal("settings", width=80).out.splitlines()
    assert "HOOKD_PORT = 8001 (.env)" in lines
    assert "HOOKD_APP (default)" in lines
    meanings = [line for line in lines if not line.startswith("HOOKD_")]
    assert all(line.startswith("    ") for line in meanings)
    assert 70 < max(map(len, lines)) <= 80


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    """Wrong settings exit with 2 and name every fault, of any command."""
    wrong = Hookd(tmp_path, {"HOOKD_PORT": "eighty", "HOOKD_WORKRES": "2", "HOOKD_DATABASE_URL": "mysql://me:s3cret@h"})
    for command in ("settings", "events"):
        done = wrong(command)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 4
        assert all(name in done.err for name in ("HOOKD_PORT", "did you mean HOOKD_WORKERS?", "HOOKD_DATABASE_URL"))
        assert "s3cret" not in done.err
