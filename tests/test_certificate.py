"""`hookd certificate`: one that signs itself, for the names given, and nothing that was there is lost."""

import asyncio
import re
import shlex
import socket
import ssl
import stat
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chassis.certificate import a_name, made, validity
from chassis.database import Connection
from hookd.files import Contents, write
from tests.commands import Hookd
from tests.receiving import receiving
from tests.storing import row_of, stored

pytestmark = pytest.mark.any_server

FILES = ("hookd-cert.pem", "hookd-key.pem")


@pytest.fixture
def hookd(tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {})


def read(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePublicKey]:
    certificate = x509.load_pem_x509_certificate((folder / FILES[0]).read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return certificate, key


def names_in(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(each.value) for each in found]


def test_by_default_it_is_for_this_machine(hookd: Hookd, tmp_path: Path) -> None:
    """For localhost, 127.0.0.1, ::1 and this machine's name, for a year, with a key on P-256 only its owner reads."""
    done = hookd("certificate")
    assert (done.code, done.err) == (0, "")
    certificate, key = read(tmp_path)
    assert names_in(certificate)[:3] == ["localhost", "127.0.0.1", "::1"]
    assert set(names_in(certificate)[3:]) <= {socket.gethostname().lower()}
    assert key.curve.name == "secp256r1"
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=364)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 for name in FILES][1] == 0
    assert stat.S_IMODE((tmp_path / FILES[1]).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_it_is_for_the_names_given(hookd: Hookd, tmp_path: Path) -> None:
    """Host names and addresses, each once, for as many days as asked, in a folder that is made where it is missing."""
    names = ("Hooks.example.com", "*.example.com", "203.0.113.7", "[2001:db8::1]", "203.0.113.7")
    done = hookd("certificate", *names, "--out", "new/folder", "--days", "30", "--json")
    certificate, _ = read(tmp_path / "new" / "folder")
    assert names_in(certificate) == ["hooks.example.com", "*.example.com", "203.0.113.7", "2001:db8::1"]
    until = certificate.not_valid_after_utc
    assert timedelta(days=29) < until - datetime.now(UTC) <= timedelta(days=30)
    [said] = done.json
    assert said["tls_cert"] == str(tmp_path / "new" / "folder" / FILES[0])
    assert said["tls_key"] == str(tmp_path / "new" / "folder" / FILES[1])
    assert said["until"] == until.isoformat()


@pytest.mark.parametrize("name", ["", "a b", "10.0.0.300", "-a.example", "a..b", "ünïcode.example", "a*.b", "x" * 64])
def test_what_is_no_name_is_refused(hookd: Hookd, tmp_path: Path, name: str) -> None:
    """In one line, and nothing is written."""
    done = hookd("certificate", "--", "localhost", name)
    assert (done.code, done.out) == (2, "")
    assert "expected a host's name, in ASCII (xn--… for others), or an IP address" in done.err
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(name: str) -> None:
    """Nothing else comes of any text; and what is a name can be in a certificate."""
    try:
        a_name(name)
    except ValueError:
        return
    assert validity(made([name], 1).certificate)


def test_a_long_name_is_one(hookd: Hookd, tmp_path: Path) -> None:
    """253 characters are DNS's own limit; 254 are none. (A subject could hold 64.)"""
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(longest) == 253
    assert hookd("certificate", longest).code == 0
    assert names_in(read(tmp_path)[0]) == [longest]
    assert hookd("certificate", f"{longest}c", "--force").code == 2


@pytest.mark.parametrize("there", FILES)
def test_nothing_is_overwritten_unasked(hookd: Hookd, tmp_path: Path, there: str) -> None:
    """With one of both files there nothing is written; --force takes their place, and neither is left half."""
    (tmp_path / there).write_text("mine")
    done = hookd("certificate")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"{tmp_path / there} is there already: --force takes its place" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"
    assert hookd("certificate", "--force").code == 0
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / FILES[0], tmp_path / FILES[1])
    assert stat.S_IMODE((tmp_path / FILES[1]).stat().st_mode) == 0o600


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    """What fails halfway leaves neither file nor trace."""
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    for replacing in (False, True):
        with pytest.raises(FileExistsError):
            write({first: Contents(b"1", 0o600), second: Contents(b"2", 0o600)}, replacing=replacing)
    with pytest.raises(FileNotFoundError):
        write({first: Contents(b"1", 0o600), tmp_path / "no" / "folder": Contents(b"2", 0o600)}, replacing=False)
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_folder_that_cannot_be_written_to_is_one_line(hookd: Hookd, tmp_path: Path) -> None:
    """With what the system says."""
    (tmp_path / "file").write_text("")
    done = hookd("certificate", "--out", "file/below")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "cannot write" in done.err


async def test_what_it_prints_works(hookd: Hookd, tmp_path: Path, database_url: str, connection: Connection) -> None:
    """The curl line and the `hookd send` line are taken by a receiver with that certificate, as they stand."""
    folder = tmp_path / "with a space"
    async with receiving(database_url) as free:
        port = free.port
    printed = (await asyncio.to_thread(hookd.having(HOOKD_PORT=str(port)), "certificate", "--out", str(folder))).out
    settings = dict(re.findall(r"^  HOOKD_(TLS_\w+)=(.*)$", printed, re.MULTILINE))
    [flags] = re.findall(r"^  hookd ingest (.*)$", printed, re.MULTILINE)
    assert shlex.split(flags) == [
        "--tls-cert",
        *shlex.split(settings["TLS_CERT"]),
        "--tls-key",
        *shlex.split(settings["TLS_KEY"]),
    ]
    paths: dict[str, Any] = {name.lower(): shlex.split(path)[0] for name, path in settings.items()}
    trusting = ssl.create_default_context(cafile=paths["tls_cert"])
    async with receiving(database_url, tls=trusting, **paths) as receiver:
        [curl] = re.findall(r"^  (curl .*)$", printed, re.MULTILINE)
        [send] = re.findall(r"^  hookd (send .*)$", printed, re.MULTILINE)
        curl, send = (line.replace(f":{port}", f":{receiver.port}") for line in (curl, send))
        asked = await create_subprocess_exec(*shlex.split(curl), "-sS", stdout=PIPE)
        said, _ = await asked.communicate()
        assert said.startswith(b'{"id"')
        done = await asyncio.to_thread(hookd.having(HOOKD_DATABASE_URL=database_url), *shlex.split(send))
        assert (done.code, done.err) == (0, done.err)
        assert await stored(connection) == 2
        assert (await row_of(connection, await receiver.post())) is not None
