"""The vault: secrets at rest are sealed, by keys that nobody else reads and no race loses."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from chassis.settings import CommonSettings
from chassis.vault import FILE, Vault, VaultError, open_vault

A, B, C = (Fernet.generate_key().decode() for _ in range(3))
SECRET = b"lamp \x00\xff lit"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE


def test_what_is_sealed_is_unsealed(file: Path) -> None:
    """Any bytes come back, and the sealed text shows none of them."""
    sealed = Vault(A, file).seal(SECRET)
    assert Vault(A, file).unseal(sealed) == SECRET
    assert "lamp" not in sealed


def test_the_first_key_seals_and_any_unseals() -> None:
    """With several keys in the setting the first seals, and what the others sealed is read too."""
    before, between = Vault(A, Path("none")), Vault(f"{B}, {A}", Path("none"))
    assert between.unseal(before.seal(SECRET)) == SECRET
    assert Vault(B, Path("none")).unseal(between.seal(SECRET)) == SECRET


def test_the_file_is_made_with_the_first_secret(file: Path) -> None:
    """A key of its own in a file of its own, 0600; only then. Nothing else is left beside it."""
    vault = Vault(None, file)
    assert not file.exists()
    sealed = vault.seal(SECRET)
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [FILE]
    assert Vault(None, file).unseal(sealed) == SECRET


def test_with_the_setting_no_file_is_made(file: Path) -> None:
    """Keys that are set are the only ones: no file is read or made."""
    Vault(A, file).seal(SECRET)
    assert not file.parent.exists()


SEAL = """
import sys
from pathlib import Path
from chassis.vault import Vault
from cryptography.fernet import Fernet
for path in sys.argv[1:]:
    vault = Vault(None, Path(path))
    print("ready", flush=True)
    sys.stdin.readline()
    print(vault.seal(b"secret"), flush=True)
"""


@pytest.mark.unmeasured
async def test_two_that_make_the_key_at_once_make_one(file: Path) -> None:
    """Whoever seals first at the same moment, all use the key that stays in the file: none is lost."""
    paths = [file.with_name(f"key{number}") for number in range(3)]
    command = (sys.executable, "-P", "-c", SEAL, *map(str, paths))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    processes = [
        await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment) for _ in range(4)
    ]

    async def lines() -> list[str]:
        """The next of each."""
        outputs = [process.stdout for process in processes if process.stdout]
        return [(await output.readline()).decode().strip() for output in outputs]

    for path in paths:
        assert await lines() == ["ready"] * 4
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        assert [Vault(None, path).unseal(sealed) for sealed in await lines()] == [b"secret"] * 4
    assert await asyncio.gather(*(process.wait() for process in processes)) == [0] * 4


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    """Whose key others may have read seals nothing more, and says what to do."""
    sealed = Vault(None, file).seal(SECRET)
    file.chmod(mode)
    with pytest.raises(VaultError, match="chmod 600"):
        Vault(None, file).seal(SECRET)
    with pytest.raises(VaultError, match="chmod 600"):
        Vault(None, file).unseal(sealed)


def test_a_file_that_its_owner_cannot_write_will_do(file: Path) -> None:
    """0400, as careful people have it, is no fault."""
    sealed = Vault(None, file).seal(SECRET)
    file.chmod(0o400)
    assert Vault(None, file).unseal(sealed) == SECRET


@as_user
def test_a_file_that_cannot_be_read_is_one_sentence(file: Path) -> None:
    """A file of somebody else's is named, with the system's reason."""
    Vault(None, file).seal(SECRET)
    file.chmod(0o000)
    with pytest.raises(VaultError, match=rf"{FILE}: Permission denied"):
        Vault(None, file).seal(SECRET)


@pytest.mark.parametrize("text", [b"password", b"\xff\xfe", A[:-4].encode(), (A + "\nx").encode()], ids=range(4))
def test_what_is_no_key_is_said_and_not_shown(file: Path, text: bytes) -> None:
    """A file or setting that holds no Fernet key is refused, and its content stays out of the message."""
    file.parent.mkdir()
    file.touch(0o600)
    file.write_bytes(text)
    with pytest.raises(VaultError, match="expected Fernet keys") as caught:
        Vault(None, file).seal(SECRET)
    assert text.decode("ascii", "replace").split()[0] not in str(caught.value)


def test_a_setting_that_is_no_key_is_said_and_not_shown(file: Path) -> None:
    """The same of HOOKD_SECRET_KEY, by its name."""
    with pytest.raises(VaultError, match="HOOKD_SECRET_KEY: expected Fernet keys") as caught:
        open_vault(CommonSettings(secret_key=SecretStr("hunter2"), data_dir=file.parent)).seal(SECRET)
    assert "hunter2" not in str(caught.value)


def test_an_empty_file_is_no_missing_one(file: Path) -> None:
    """A key file that lost its content is not taken for one to be made: what it sealed would be unreadable."""
    file.parent.mkdir()
    file.touch(0o600)
    with pytest.raises(VaultError, match="holds no key"):
        Vault(None, file).seal(SECRET)


def test_a_folder_in_its_place_is_one_sentence(file: Path) -> None:
    """Whatever stands there, the error is a sentence."""
    file.mkdir(0o700, parents=True)
    with pytest.raises(VaultError, match="Is a directory"):
        Vault(None, file).seal(SECRET)


def test_a_lost_file_is_said(file: Path) -> None:
    """A secret without its key file cannot be read, and no new file is made in the attempt."""
    sealed = Vault(None, file).seal(SECRET)
    file.unlink()
    with pytest.raises(VaultError, match=r"there is no .*secret\.key, and HOOKD_SECRET_KEY is not set"):
        Vault(None, file).unseal(sealed)
    assert not file.exists()


@pytest.mark.parametrize("sealed", ["", "x", "gAAAAA", "é", "\x00" * 100])
def test_what_was_never_sealed_is_unreadable(sealed: str) -> None:
    """Any text in the table that no vault wrote is refused as unreadable, and blames no key."""
    with pytest.raises(VaultError, match="cannot be read with the key of HOOKD_SECRET_KEY"):
        Vault(A, Path("none")).unseal(sealed)


def test_a_new_key_is_seen_by_who_runs(file: Path) -> None:
    """A process that has read the file reads what another's new key sealed, without a restart."""
    running = Vault(None, file)
    before = running.seal(SECRET)
    other = Vault(None, file)
    other.renew()
    assert running.unseal(other.seal(b"new")) == b"new"
    assert Vault(None, file).unseal(before) == SECRET


def test_renewing_loses_no_key(file: Path) -> None:
    """However often a new key is made, what any of them sealed is read: another database may have it."""
    vault = Vault(None, file)
    sealed = []
    for number in range(3):
        sealed.append(vault.seal(bytes([number])))
        vault.renew()
    assert len(file.read_text().split()) == 4
    assert [Vault(None, file).unseal(each) for each in sealed] == [b"\x00", b"\x01", b"\x02"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [FILE]


def test_keys_that_are_set_are_not_renewed(file: Path) -> None:
    """Where the setting has the keys, the person puts the new one there."""
    with pytest.raises(VaultError, match="put a new one first"):
        Vault(A, file).renew()


def test_what_failed_is_tried_again_when_the_file_has_changed(file: Path) -> None:
    """A secret that could not be read is, once its key is in the file; until then the file is not read again."""
    file.parent.mkdir()
    file.touch(0o600)
    file.write_text(f"{A}\n")
    vault, sealed = Vault(None, file), Vault(B, file).seal(SECRET)
    for _ in range(3):
        with pytest.raises(VaultError, match="sealed with another"):
            vault.unseal(sealed)
    file.write_text(f"{A}\n{B}\n")
    assert vault.unseal(sealed) == SECRET


def test_the_file_is_not_read_for_each_secret(file: Path) -> None:
    """Between changes of the file it is read once, however many secrets are read, or cannot be."""
    sealed = [Vault(A, file).seal(bytes([n])) for n in range(3)]
    unknown = Vault(B, file).seal(SECRET)
    file.parent.mkdir()
    file.touch(0o600)
    file.write_text(f"{A}\n")
    vault = Vault(None, file)
    assert vault.unseal(sealed[0]) == b"\x00"
    reads = len(opens_of(file, vault, [*sealed[1:], unknown, unknown]))
    assert reads == 0


def opens_of(file: Path, vault: Vault, tokens: list[str]) -> list[str]:
    """What of that file is opened while these are unsealed."""
    seen: list[str] = []
    is_on = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_on and event == "open" and str(arguments[0]) == str(file):
            seen.append(event)

    sys.addaudithook(watch)
    for token in tokens:
        with suppress(VaultError):
            vault.unseal(token)
    is_on = False
    return seen


@needs_root
def test_a_file_that_root_makes_belongs_to_the_owner_of_its_folder(file: Path) -> None:
    """`sudo hookd sources add` with a service's data folder leaves a key that the service can read, also renewed."""
    file.parent.mkdir()
    os.chown(file.parent, 12345, 23456)
    vault = Vault(None, file)
    vault.seal(SECRET)
    vault.renew()
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 23456, 0o600)
    os.chown(file, 12346, 23457)
    vault.renew()
    assert (file.stat().st_uid, file.stat().st_gid) == (12346, 23457)
