"""The embedded PostgreSQL: durable, private, shared by all who name its folder, and gone when the last of them is."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from chassis.database import Database, DatabaseError
from chassis.embedded import Embedded, EmbeddedError
from tests.embedding import (
    DEBIAN,
    IS_ROOT,
    NOBODY,
    REPOSITORY,
    WHEEL,
    Begun,
    a_place,
    as_somebody_else,
    ask,
    has_debian,
    is_stopped,
    keep_a_row,
    kept_row,
    kill_server,
    may_mount,
    mode,
    only_root,
    refusal,
    said_url,
    server_pid,
    socket_folder,
    start_hookd,
)

pytestmark = pytest.mark.unmeasured

both_servers = pytest.mark.parametrize(
    "programs", [pytest.param(WHEEL, id="wheel"), pytest.param(DEBIAN, id="debian", marks=has_debian)]
)


@pytest.fixture
def place() -> Iterator[Path]:
    with a_place() as place:
        yield place


# It serves.


@both_servers
def test_the_first_start_makes_a_durable_database(place: Path, programs: Path) -> None:
    """The URL leads to database `hookd` as superuser `hookd`, as durable as PostgreSQL is; no network."""
    with Embedded(place / "new" / "data", programs).serve() as url:
        assert ask(url, "SELECT current_user, current_database(), usesuper FROM pg_user") == "hookd|hookd|t"
        assert (
            ask(url, "SHOW fsync") == ask(url, "SHOW synchronous_commit") == ask(url, "SHOW full_page_writes") == "on"
        )
        assert ask(url, "SHOW listen_addresses") == ""
    assert is_stopped(place / "new" / "data")


@both_servers
def test_a_second_start_finds_the_rows_of_the_first(place: Path, begun: Begun, programs: Path) -> None:
    """What was committed before the server stopped is there when it starts again."""
    embedded = begun(place / "data", programs)
    with embedded.serve() as url:
        keep_a_row(url)
    with embedded.serve() as url:
        assert kept_row(url) == "42"


async def test_a_server_that_does_not_sync_is_refused(place: Path, begun: Begun) -> None:
    """With fsync off a power cut may take what was answered: a sentence, unless HOOKD_ALLOW_UNSAFE accepts it."""
    embedded = begun(place / "data")
    with (place / "data" / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")
    with embedded.serve() as url:
        with pytest.raises(DatabaseError, match=r"^fsync is off: .*HOOKD_ALLOW_UNSAFE"):
            await Database(url).connect("test")
        await (await Database(url, allow_unsafe=True).connect("test")).close()


@both_servers
@pytest.mark.parametrize(
    ("name", "below"),
    [("""it's a "quoted", 100%20 $HOME `x` \\ é""", "/tmp"), ("""it's a "quoted" 100%20 $HOME `x` \\""", "")],
    ids=["with a comma", "without"],
)
async def test_a_path_may_have_any_character(place: Path, programs: Path, name: str, below: str) -> None:
    """Spaces, quotes, percent and dollar signs are no trouble, for asyncpg and psql alike.

    Only a comma, which would be two hosts in a URL, moves the socket's folder to /tmp.
    """
    with Embedded(place / name, programs).serve() as url:
        assert ask(url, "SELECT 1") == "1"
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SHOW data_directory") == str(place / name / "postgres")
        await connection.close()
        assert socket_folder(url).parent == (Path(below) if below else place / name)


def test_a_path_may_be_longer_than_that_of_a_socket(place: Path, begun: Begun) -> None:
    """Then the socket is in a folder in /tmp, closed to all others, which goes when the server stops."""
    embedded = begun(place / ("long" * 50))
    with embedded.serve() as url:
        assert ask(url, "SELECT 1") == "1"
        assert mode(socket_folder(url)) == 0o700
    assert not socket_folder(url).exists()


# It is shared.


def test_two_names_of_a_folder_lead_to_one_server(place: Path, begun: Begun) -> None:
    """A link to the data folder is the data folder."""
    (place / "link").symlink_to(place / "data")
    with begun(place / "data").serve() as url, Embedded(place / "link").serve() as same:
        assert url == same


@both_servers
def test_two_that_start_at_once_share_one_server(place: Path, programs: Path) -> None:
    """Of two processes that begin with nothing at the same moment one makes the database; the last one stops it."""
    with start_hookd(place / "data", programs) as first, start_hookd(place / "data", programs) as second:
        url = said_url(first)
        assert said_url(second) == url
        first.communicate()
        assert ask(url, "SELECT 1") == "1"
    assert is_stopped(place / "data")


def test_the_last_to_leave_stops_the_server_though_another_was_killed(place: Path, begun: Begun) -> None:
    """A kill -9 of one process neither stops the server for the others, nor keeps it alive after them.

    No more does a child that the killed one leaves behind: the locks are not inherited.
    """
    begun(place / "data")
    with start_hookd(place / "data") as killed:
        with start_hookd(place / "data") as last:
            url = said_url(last)
            assert said_url(killed) == url
            killed.kill()
            killed.wait()
            assert ask(url, "SELECT 1") == "1"
        assert is_stopped(place / "data")


@both_servers
def test_a_killed_server_is_started_again_by_whoever_misses_it(place: Path, begun: Begun, programs: Path) -> None:
    """After a kill -9 of the server any number may revive it at once; what was committed is there."""
    embedded, other = begun(place / "data", programs), Embedded(place / "data", programs)
    with embedded.serve() as url, other.serve():
        keep_a_row(url)
        kill_server(place / "data", url)
        revivals = [threading.Thread(target=each.revive) for each in (embedded, other, embedded)]
        for revival in revivals:
            revival.start()
        for revival in revivals:
            revival.join()
        assert kept_row(url) == "42"
    assert is_stopped(place / "data")


def test_a_living_server_is_left_alone(place: Path, begun: Begun) -> None:
    """Reviving a server that lives does nothing."""
    embedded = begun(place / "data")
    with embedded.serve():
        before = server_pid(place / "data")
        embedded.revive()
        assert server_pid(place / "data") == before


def test_a_server_that_nobody_uses_stays_down(place: Path, begun: Begun) -> None:
    """Reviving is for those who serve: nobody else would stop the server again."""
    embedded = begun(place / "data")
    with pytest.raises(EmbeddedError, match="nobody uses the server"):
        embedded.revive()
    assert is_stopped(place / "data")


FIRST_PROCESS = """
import os, signal, subprocess, sys
from pathlib import Path
from chassis.embedded import Embedded
embedded = Embedded(Path(sys.argv[1]))
if os.getpid() == 1:
    with embedded.serve():
        os.kill(int((embedded.folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        subprocess.run([sys.executable, *sys.orig_argv[1:]], check=True)
else:
    embedded.revive()
    print("revived")
"""


@only_root
@may_mount
def test_a_killed_server_is_revived_in_a_container_too(place: Path, begun: Begun) -> None:
    """Where hookd is the first process, nobody waits for the dead server, and PostgreSQL takes it for alive."""
    begun(place / "data")
    contained = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", FIRST_PROCESS, str(place / "data")]
    done = subprocess.run(contained, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "revived\n", done.stderr


def test_a_number_that_another_process_has_now_keeps_no_server_down(place: Path, begun: Begun) -> None:
    """After a power cut the dead server's process number may be anybody's: it is not taken for the server."""
    embedded = begun(place / "data")
    pid_file = place / "data" / "postgres" / "postmaster.pid"
    with embedded.serve():
        words = pid_file.read_text()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user="hookd" if IS_ROOT else None) as anybody:
        pid_file.write_text(words.replace(words.split()[0], str(anybody.pid), 1))
        with embedded.serve() as url:
            assert ask(url, "SELECT 1") == "1"


# It is private.


CONNECT = """
try:
    asyncio.run(asyncpg.connect(sys.argv[2]))
except (OSError, asyncpg.PostgresError) as error:
    print(error)
"""


@only_root
def test_nobody_else_reaches_the_socket_or_is_let_in_there(place: Path, begun: Begun) -> None:
    """The socket's folder is closed to others; were it opened by mistake, the kernel would tell who knocks."""
    with begun(place / "data").serve() as url:
        assert "Permission denied" in as_somebody_else(NOBODY, CONNECT, url)
        socket_folder(url).chmod(0o755)
        (socket_folder(url) / ".s.PGSQL.5432").chmod(0o777)
        assert 'Peer authentication failed for user "hookd"' in as_somebody_else(NOBODY, CONNECT, url)
        socket_folder(url).chmod(0o700)


def test_no_permission_above_the_data_folder_changes(place: Path) -> None:
    """The folders above keep their modes; those that were missing are as open as the umask says, and no more."""
    (place / "above").mkdir(0o711 if IS_ROOT else 0o700)
    before = {path: mode(path) for path in (place / "above" / "new").parents}
    with Embedded(place / "above" / "new" / "data").serve():
        assert {path: mode(path) for path in (place / "above" / "new").parents} == before
        umask = os.umask(0o022)
        os.umask(umask)
        assert mode(place / "above" / "new") == 0o777 & ~umask
        assert mode(place / "above" / "new" / "data") == (0o711 if IS_ROOT else 0o700)


@pytest.mark.parametrize(
    "squat", [lambda path: path.mkdir(0o755), lambda path: path.symlink_to("/")], ids=["open", "link"]
)
def test_a_folder_in_tmp_that_somebody_made_first_is_refused(
    place: Path, begun: Begun, squat: Callable[[Path], None]
) -> None:
    """A socket's folder in /tmp that others can enter, or a link to another folder, is left as it is and not used."""
    with begun(place / ("long" * 50)).serve() as url:
        squatted = socket_folder(url)
    squat(squatted)
    try:
        assert re.fullmatch(f"{squatted} is not a folder of .+ alone: remove it", refusal(place / ("long" * 50)))
    finally:
        squatted.unlink() if squatted.is_symlink() else squatted.rmdir()
