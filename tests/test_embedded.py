"""The embedded PostgreSQL: durable, private, shared by all who name its folder, and gone when the last of them is."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from chassis.database import Database, DatabaseError
from chassis.embedded import Embedded, EmbeddedError, binaries
from tests.needs import needs

pytestmark = pytest.mark.unmeasured

Begun: TypeAlias = Callable[..., Embedded]

REPOSITORY = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0
NOBODY, NO_ACCOUNT = 65534, 54321

WHEEL = binaries()
DEBIAN = max((found.parent for found in Path("/usr/lib/postgresql").glob("*/bin/postgres")), default=Path("/missing"))

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else, or mount a small disk")
may_mount = needs(
    subprocess.run(["/bin/sh", "-c", "unshare --mount true"], capture_output=True, check=False).returncode == 0,
    "needs unshare (apt install util-linux) and the right to mount",
)
has_debian = needs(DEBIAN.exists(), "needs a second PostgreSQL: apt install postgresql")
both_servers = pytest.mark.parametrize(
    "programs", [pytest.param(WHEEL, id="wheel"), pytest.param(DEBIAN, id="debian", marks=has_debian)]
)


@contextmanager
def an_open_folder() -> Iterator[Path]:
    """A folder that every account may enter, as those above /var/lib/hookd are; pytest's own are closed.

    In memory where there is enough: a disk makes these tests three times as long, and proves nothing more.
    """
    memory = Path("/dev/shm")
    ample = memory.exists() and shutil.disk_usage(memory).free > 2**30 and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    with tempfile.TemporaryDirectory(prefix="hookd-", dir=memory if ample else "/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def place() -> Iterator[Path]:
    with an_open_folder() as place:
        yield place
        for data in place.glob("**/postgres/postmaster.pid"):
            os.kill(server_pid(data.parent.parent), signal.SIGQUIT)


@pytest.fixture(scope="session")
def begun() -> Iterator[Begun]:
    """An embedded server that ran before, for tests to which the first start does not matter: a copy is quicker."""
    with an_open_folder() as seeds:

        def copied(folder: Path, programs: Path = WHEEL) -> Embedded:
            first = seeds / programs.parent.name
            if not first.exists():
                with Embedded(first, programs).serve():
                    pass
            subprocess.run(["cp", "-a", first, folder], check=True)
            return Embedded(folder, programs)

        yield copied


HOOKD = """
import subprocess, sys
from pathlib import Path
from chassis.embedded import Embedded
with Embedded(Path(sys.argv[1]), Path(sys.argv[2])).serve() as url:
    child = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, close_fds=False)
    print(url, flush=True)
    child.wait()
"""


def start_hookd(folder: Path, programs: Path = WHEEL) -> subprocess.Popen[str]:
    """Another process, which says its URL and serves until its standard input ends, as does a child of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", HOOKD, folder, programs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def said_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


SOMEBODY_ELSE = """
import asyncio, asyncpg, getpass, os, sys, uuid
from pathlib import Path
from chassis.embedded import Embedded, EmbeddedError
def become(uid):  # not sooner: the interpreter's own files may be closed to them
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
become(int(sys.argv[1]))
"""


def as_somebody_else(uid: int, program: str, *arguments: str | Path) -> str:
    """What the program prints when another user runs it."""
    command = [sys.executable, "-c", SOMEBODY_ELSE + program, str(uid), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(url: str, sql: str) -> str:
    asked = subprocess.run([WHEEL / "psql", "-XAtq", "-d", url, "-c", sql], capture_output=True, text=True, check=False)
    return (asked.stdout or asked.stderr).strip()


def keep_a_row(url: str) -> None:
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")


def kept_row(url: str) -> str:
    return ask(url, "SELECT answer FROM kept")


def server_pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def is_stopped(folder: Path) -> bool:
    """A server that is stopped takes its pid file along, and hookd the folder of its socket."""
    return not (folder / "postgres" / "postmaster.pid").exists() and not (folder / "socket").exists()


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(folder: Path, programs: Path = WHEEL) -> str:
    """The sentence by which serving from the folder is refused."""
    with pytest.raises(EmbeddedError) as refused, Embedded(folder, programs).serve():
        pass
    return str(refused.value)


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
        os.kill(server_pid(place / "data"), signal.SIGKILL)
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


# What is wrong is said in a sentence.


@has_debian
def test_the_data_of_another_major_version_is_refused(place: Path, begun: Begun) -> None:
    """PostgreSQL cannot read the files of another major version: hookd says so, and leaves them as they are."""
    with begun(place / "data", DEBIAN).serve() as url:
        keep_a_row(url)
    assert re.search(r"was made by PostgreSQL \d+, which 18 cannot read: go back to", refusal(place / "data"))
    with Embedded(place / "data", DEBIAN).serve() as url:
        assert kept_row(url) == "42"


@contextmanager
def a_small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@only_root
@may_mount
def test_a_first_start_on_a_full_disk_leaves_nothing_behind(place: Path) -> None:
    """Without room for a database there is no half of one: when room was made, the next start begins afresh."""
    with a_small_disk(place / "disk", "20m"):
        assert "disk/data is full: make room, or choose another HOOKD_DATA_DIR" in refusal(place / "disk" / "data")
        assert {path.name for path in (place / "disk" / "data").iterdir()} == {"lock", "users"}
        subprocess.run(["mount", "-o", "remount,size=80m", place / "disk"], check=True)
        with Embedded(place / "disk" / "data").serve() as url:
            assert ask(url, "SELECT 1") == "1"


@only_root
@may_mount
def test_a_later_start_on_a_full_disk_loses_nothing(place: Path, begun: Begun) -> None:
    """It is said that the disk is full; when room was made, every row is there."""
    with a_small_disk(place / "disk", "80m"):
        embedded = begun(place / "disk" / "data")
        with embedded.serve() as url:
            keep_a_row(url)
        subprocess.run(["dd", "if=/dev/zero", f"of={place / 'disk' / 'filler'}"], check=False, capture_output=True)
        assert "disk/data is full: make room, or choose another HOOKD_DATA_DIR" in refusal(place / "disk" / "data")
        (place / "disk" / "filler").unlink()
        with embedded.serve() as url:
            assert kept_row(url) == "42"


def test_what_a_killed_first_start_left_is_cleared_away(place: Path) -> None:
    """A database that was never finished is not taken for one, and goes at the next start."""
    (place / ".initdb-killed").mkdir()
    (place / ".initdb-killed" / "PG_VERSION").write_text("18\n")
    with Embedded(place).serve() as url:
        assert ask(url, "SELECT 1") == "1"
        assert not list(place.glob(".initdb-*"))


def test_a_server_that_cannot_start_is_quoted(place: Path, begun: Begun) -> None:
    """What the server wrote into its log as it gave up is the sentence."""
    embedded = begun(place / "data")
    for segment in (place / "data" / "postgres" / "pg_wal").glob("0*"):
        segment.unlink()
    with pytest.raises(EmbeddedError, match="could not locate a valid checkpoint record"), embedded.serve():
        pass


def test_a_missing_extra_is_named() -> None:
    """Without the wheel the sentence names what to install, and the way to do without."""
    program = "import chassis.embedded as e\ntry: e.binaries()\nexcept e.EmbeddedError as error: print(error)"
    without_packages = [sys.executable, "-E", "-S", "-c", program]
    said = subprocess.run(without_packages, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert said == "there is no PostgreSQL to start: install hookd[embedded], or set HOOKD_DATABASE_URL\n"


def test_programs_that_cannot_run_are_named(place: Path) -> None:
    """A folder that lacks a program, or from which PostgreSQL's cannot start each other, is named."""
    (place / "broken").mkdir()
    (place / "broken" / "postgres").touch(mode=0o755)
    assert "/broken/initdb cannot be run (No such file or directory)" in refusal(place / "data", place / "broken")
    (place / 'a "quote"').symlink_to(WHEEL)
    assert "whose path has a quote" in refusal(place / "data", place / 'a "quote"')


def test_a_folder_that_cannot_be_the_data_folder_is_named(place: Path) -> None:
    """A file, a folder that everybody may change, a name that PostgreSQL cannot bear: each is named and left alone."""
    (place / "file").touch()
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    assert (
        refusal(place / "file") == f"{place}/file/users cannot be used (Not a directory): choose another HOOKD_DATA_DIR"
    )
    assert refusal(place / "file" / "x").startswith(f"{place}/file/x cannot be used (Not a directory)")
    assert refusal(place / "open") == f"{place}/open is not yours alone to change: choose a HOOKD_DATA_DIR that is"
    assert "has a line break in its name: choose another HOOKD_DATA_DIR" in refusal(place / "line\nbreak")
    assert not list((place / "open").iterdir())


SERVE = """
try:
    with Embedded(Path(sys.argv[2]), Path(sys.argv[3])).serve():
        print("served")
except EmbeddedError as error:
    print(error)
"""


@only_root
def test_a_folder_of_another_account_is_named(place: Path) -> None:
    """Neither an ordinary user in root's folder nor root in a user's goes any further."""
    said = as_somebody_else(NOBODY, SERVE, place / "data", WHEEL)
    assert said == f"{place}/data cannot be used (Permission denied): choose another HOOKD_DATA_DIR\n"
    os.chown(place, NOBODY, NOBODY)
    assert "is not yours alone to change" in refusal(place)


@only_root
def test_a_user_id_without_an_account_is_named(place: Path) -> None:
    """PostgreSQL runs for nobody without a name: a container with an invented user id is told so."""
    os.chown(place, NO_ACCOUNT, NO_ACCOUNT)
    assert "user id 54321, which has no account on this machine" in as_somebody_else(NO_ACCOUNT, SERVE, place, WHEEL)


# Root's server runs as a system user.


@only_root
def test_a_folder_that_the_system_user_cannot_enter_is_named(place: Path) -> None:
    """Below a closed folder, as root's home mostly is, root is told to choose another; nothing is opened for it."""
    (place / "home").mkdir(0o700)
    assert re.search("the system user hookd, .+ cannot enter .+/home/data: choose", refusal(place / "home" / "data"))
    assert mode(place / "home") == 0o700


@only_root
def test_programs_in_a_closed_folder_are_copied_for_the_system_user(place: Path, begun: Begun) -> None:
    """A virtualenv in a closed home will do: what the server needs is copied, anew for each version of the wheel."""
    package, site = WHEEL.parents[1].name, WHEEL.parents[2]
    for part in (f"{package}/{WHEEL.parent.name}", f"{package}.libs"):
        shutil.copytree(site / part, place / "home" / part)
    (place / "home").chmod(0o700)
    metadata = place / "home" / f"{package}-1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    begun(place / "data")
    copies = []
    for version in ("1.0", "1.0", "1.1"):
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        with Embedded(place / "data", place / "home" / WHEEL.relative_to(site)).serve() as url:
            assert ask(url, "SELECT current_user") == "hookd"
            assert Path(f"/proc/{server_pid(place / 'data')}").owner() == "hookd"
        copies.append((place / "data" / "binaries").stat().st_ino)
    assert copies[0] == copies[1] != copies[2]
    assert mode(place / "home") == 0o700


@only_root
def test_other_programs_in_a_closed_folder_are_named(place: Path) -> None:
    """Only the wheel's programs are copied; of others it is said that the system user cannot run them."""
    shutil.copytree(WHEEL, place / "home" / "some" / "where" / "bin")
    (place / "home").chmod(0o700)
    assert re.search(
        "the system user hookd, .+ cannot run .+/bin/postgres: let it",
        refusal(place / "data", place / "home" / "some" / "where" / "bin"),
    )
