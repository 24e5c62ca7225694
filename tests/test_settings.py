"""Settings: where they come from, and what is said of those that are wrong."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.commands import Hookd, Ran

pytestmark = pytest.mark.usefixtures("settings_free")


def settings(folder: Path, arguments: str = "", **environment: str) -> Ran:
    """`hookd settings` in that folder."""
    return Hookd(folder, {"COLUMNS": "200", **environment})("settings", *arguments.split())


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"environment", ".env", "hookd.toml"}, "1111"),
        ({".env", "hookd.toml"}, "2222"),
        ({"hookd.toml"}, "3333"),
        (set(), "8080"),
    ],
)
def test_the_first_source_that_has_a_setting_wins(tmp_path: Path, present: set[str], expected: str) -> None:
    """Environment, then .env, then hookd.toml, then the default; and `hookd settings` says which it was."""
    (tmp_path / ".env").write_text("HOOKD_PORT=2222\n" if ".env" in present else "")
    (tmp_path / "hookd.toml").write_text("port = 3333\n" if "hookd.toml" in present else "")
    environment: Mapping[str, str] = {"HOOKD_PORT": "1111"} if "environment" in present else {}
    (line,) = [line for line in settings(tmp_path, **environment).out.splitlines() if "HOOKD_PORT" in line]
    assert expected in line
    origin = next((name for name in ("environment", ".env", "hookd.toml") if name in present), "default")
    assert origin in line


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    """Each wrong setting is named with what was expected, all at once, and the exit code is 2."""
    (tmp_path / ".env").write_text("HOOKD_WORKRES=2\n")
    (tmp_path / "hookd.toml").write_text("retention_days = 1\ncolour = 'red'\n")
    done = settings(tmp_path, HOOKD_PORT="many", HOOKD_TRUSTED_PROXIES="10.0.0.0/99", HOOKD_PREFIX="no slash")
    assert done.code == 2
    for name in ("HOOKD_PORT", "HOOKD_TRUSTED_PROXIES", "HOOKD_PREFIX", "HOOKD_RETENTION_DAYS", "HOOKD_COLOUR"):
        assert name in done.err
    assert "did you mean HOOKD_WORKERS?" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", ["", "--json"])
def test_a_secret_is_never_shown(tmp_path: Path, arguments: str) -> None:
    """The database's password appears neither among the settings nor in an error about them."""
    right = settings(tmp_path, arguments, HOOKD_DATABASE_URL="postgresql://me:hunter2@localhost/hooks")
    wrong = settings(tmp_path, arguments, HOOKD_DATABASE_URL="mysql://me:hunter2@localhost/hooks")
    assert right.code == 0
    assert wrong.code == 2
    assert "hunter2" not in right.out + right.err + wrong.out + wrong.err
    assert "HOOKD_DATABASE_URL: expected postgresql://" in wrong.err


@pytest.mark.parametrize(
    "rest",
    [
        "me:hunt/er2@localhost/hooks", "me:hunt#er2@localhost/hooks", "me:hunt?er2@localhost/hooks",
        "me:hunt@er2@localhost/hooks", "me:hunt%2Fer2@localhost:many/hooks", "me:hunt%2Fer2@localhost:65536/hooks",
        "me:hunt%2Fer2@[::1/hooks", "me:hunt%2Fer2@localhost/hooks?er2",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_read_is_a_fault_that_quotes_nothing_of_it(tmp_path: Path, rest: str) -> None:
    """A password that is not written as URLs want it is told by what to write, in a line, without a part of it."""
    done = settings(tmp_path, HOOKD_DATABASE_URL=f"postgresql://{rest}")
    assert done.code == 2
    assert done.err.startswith("Error: HOOKD_DATABASE_URL: cannot be read: ")
    assert "%2F for /" in done.err
    assert "hunt" not in done.err
    assert "er2" not in done.err


@pytest.mark.parametrize(
    "rest",
    [
        "/hooks", "localhost", "me@localhost:65535/hooks", "me:hunt%2Fer2@[::1]:5432/hooks?sslmode=require",
        "a,b:5433/hooks?target_session_attrs=any", "%2Frun%2Fpostgresql/hooks", "/hooks?host=/run/postgresql&port=5433",
        "me:hunt:er2@10.0.0.1/hooks",
    ],
)  # fmt: skip
def test_a_url_as_postgresql_has_it_will_do(tmp_path: Path, rest: str) -> None:
    """Names, addresses, several servers, a socket's folder in its place or in the query; with a port or without."""
    done = settings(tmp_path, HOOKD_DATABASE_URL=f"postgresql://{rest}")
    assert (done.code, done.err) == (0, "")


def test_a_toml_file_that_does_not_parse_is_one_line(tmp_path: Path) -> None:
    """A broken hookd.toml is named, with the place where it breaks."""
    (tmp_path / "hookd.toml").write_text("port = \n")
    done = settings(tmp_path)
    assert done.code == 2
    assert "hookd.toml" in done.err
    assert "line 1" in done.err


@pytest.mark.parametrize("line", ["HOOKD_PORT 80", 'HOOKD_PORT="80', "HOOKD_PORT: 80", "  export HOOKD_PORT:80"])
def test_a_line_of_the_env_file_that_cannot_be_read_is_a_fault(tmp_path: Path, line: str) -> None:
    """A setting in .env that is not written NAME=value is named, and the others count."""
    (tmp_path / ".env").write_text(f"{line}\nHOOKD_WORKERS=none\n")
    done = settings(tmp_path)
    assert done.code == 2
    assert "\n  HOOKD_PORT (.env): cannot be read, expected HOOKD_PORT=value\n" in done.err
    assert "\n  HOOKD_WORKERS: " in done.err


def test_what_others_write_into_the_env_file_is_theirs(tmp_path: Path) -> None:
    """A .env that hookd shares may have lines that are not for it, in a form of their own."""
    (tmp_path / ".env").write_text("other program = yes\n= what\nHOOKD_PORT=2222\n")
    done = settings(tmp_path, "--json")
    assert (done.code, done.err, json.loads(done.out)["HOOKD_PORT"]["value"]) == (0, "", "2222")


def test_a_data_folder_without_a_name_is_a_fault(tmp_path: Path) -> None:
    """An empty HOOKD_DATA_DIR is refused: no database comes to be in whatever folder is the current one."""
    done = settings(tmp_path, HOOKD_DATA_DIR="")
    assert (done.code, done.err) == (2, "Error: HOOKD_DATA_DIR: expected a folder\n")


@pytest.mark.parametrize("name", [".env", "hookd.toml"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, name: str) -> None:
    """An umlaut in ISO-8859-1, in somebody else's comment say, is told by its file and place."""
    (tmp_path / name).write_bytes(b"# gr\xfcn\n")
    done = settings(tmp_path)
    assert done.code == 2
    assert done.err == f"Error: {name}: cannot be read: expected UTF-8, which it is not at byte 5\n"


@pytest.mark.parametrize("origin", ["environment", ".env"])
def test_a_name_that_is_no_setting_is_a_fault_in_any_case(tmp_path: Path, origin: str) -> None:
    """`hookd_port` is taken for HOOKD_PORT, so `hookd_prot` is not passed over."""
    environment = {"hookd_prot": "80"} if origin == "environment" else {}
    (tmp_path / ".env").write_text("" if environment else "hookd_prot=80\n")
    done = settings(tmp_path, **environment)
    assert done.code == 2
    assert f"HOOKD_PROT ({origin}): no such setting; did you mean HOOKD_PORT?" in done.err


def test_a_body_that_could_never_be_taken_is_a_fault(tmp_path: Path) -> None:
    """Larger ones share half of the in-flight budget: beyond that their sender would be told 503 for ever."""
    assert settings(tmp_path, HOOKD_BODY_BYTES_MAX="4194304", HOOKD_INFLIGHT_BYTES_MAX="8388608").code == 0
    done = settings(tmp_path, HOOKD_BODY_BYTES_MAX="4194305", HOOKD_INFLIGHT_BYTES_MAX="8388608")
    assert done.code == 2
    assert "HOOKD_BODY_BYTES_MAX: at most half of HOOKD_INFLIGHT_BYTES_MAX" in done.err


def test_every_setting_has_a_meaning(tmp_path: Path) -> None:
    """Each setting says what it is for."""
    listed = json.loads(settings(tmp_path, "--json").out)
    assert len(listed) > 25
    assert all(len(each["meaning"]) > 10 for each in listed.values())
