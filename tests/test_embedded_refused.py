"""The embedded PostgreSQL: what is wrong with its folder, its programs or its user is said in a sentence."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chassis.embedded import Embedded, EmbeddedError
from tests.embedding import (
    DEBIAN,
    NO_ACCOUNT,
    NOBODY,
    REPOSITORY,
    WHEEL,
    Begun,
    a_place,
    as_somebody_else,
    ask,
    has_debian,
    keep_a_row,
    kept_row,
    may_mount,
    mode,
    only_root,
    refusal,
    server_pid,
)

pytestmark = pytest.mark.unmeasured


@pytest.fixture
def place() -> Iterator[Path]:
    with a_place() as place:
        yield place


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
