"""Secrets at rest: sealed with the keys of HOOKD_SECRET_KEY, or of a file that only its owner may read."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chassis.settings import CommonSettings, data_folder

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

FILE = "secret.key"
FILE_BYTES_MAX = 64 * 1024
KEYS_MAX = 1000  # they fit
REMEMBERED_MAX = 1000  # a registry is read again after each change of it

# `cryptography` is imported with the first secret: most processes have none, and it costs 40 ms.


class VaultError(ValueError):
    """What is wrong with the keys, or with what they should open; no key and no secret in it."""


class Vault:
    """Seals with the first key, unseals with any. Without HOOKD_SECRET_KEY the keys are those of the file."""

    def __init__(self, given: str | None, file: Path) -> None:
        self._file = file
        self._given = tuple(each.strip() for each in given.split(",") if each.strip()) if given else ()
        self._read_at: tuple[int, ...] | None = None  # which state of the file the keys are from
        self._keys = self._given
        self._opened: dict[str, bytes] = {}
        self._unopened: set[str] = set()

    def seal(self, secret: bytes) -> str:
        """Seal with the first key; the file is made where there is neither file nor setting. Raises VaultError."""
        keys = self._current() or self._make()
        return self._fernets(keys)[0].encrypt(secret).decode()

    def unseal(self, sealed: str) -> bytes:
        """Raises VaultError; of what could not be unsealed again and again, without trying until the file changes."""
        if (opened := self._opened.get(sealed)) is not None:
            return opened
        keys = self._current()  # another process may have made a new key since
        if not keys:
            raise VaultError(f"a secret cannot be read: there is no {self._file}, and HOOKD_SECRET_KEY is not set")
        if sealed in self._unopened or (secret := self._open(sealed, keys)) is None:
            self._remember_few()
            self._unopened.add(sealed)
            raise VaultError(f"a secret cannot be read with the key of {self.origin}: it was sealed with another")
        self._remember_few()
        self._opened[sealed] = secret
        return secret

    def check(self) -> None:
        """Raises VaultError where the keys cannot be used; that there are none yet is no fault."""
        self._fernets(self._current())

    def renew(self) -> None:
        """Make a new first key in the file. Raises VaultError where the setting has the keys.

        The former ones stay: running processes need them, a rekey that was cut off does, and so may another database's
        secrets.
        """
        if self._given:
            raise VaultError("HOOKD_SECRET_KEY holds the keys: put a new one first, a comma between, then rekey")
        self._write([_new_key(), *self._current()][:KEYS_MAX])

    @property
    def is_given(self) -> bool:
        """Whether the keys are those of the setting."""
        return bool(self._given)

    @property
    def origin(self) -> str:
        return "HOOKD_SECRET_KEY" if self._given else str(self._file)

    def _remember_few(self) -> None:
        if len(self._opened) + len(self._unopened) >= REMEMBERED_MAX:
            self._opened.clear()
            self._unopened.clear()

    def _open(self, sealed: str, keys: Sequence[str]) -> bytes | None:
        from cryptography.fernet import InvalidToken, MultiFernet  # noqa: PLC0415

        opener = MultiFernet(self._fernets(keys))
        try:
            return opener.decrypt(sealed.encode("ascii", "replace"))
        except InvalidToken:
            return None

    def _fernets(self, keys: Sequence[str]) -> list["Fernet"]:
        from cryptography.fernet import Fernet  # noqa: PLC0415

        try:
            return [Fernet(key) for key in keys]
        except ValueError:
            raise self._unusable() from None

    def _unusable(self) -> VaultError:
        return VaultError(
            f"{self.origin}: expected Fernet keys, 32 bytes in base64url each (hookd sources rekey --help)"
        )

    def _current(self) -> tuple[str, ...]:
        """The keys as they are now: the file is read when it has changed. None of them where there is none."""
        if self._given:
            return self._given
        try:
            stat = self._file.stat()
            read_at = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
            if read_at != self._read_at:
                self._keys, self._unopened = self._read(stat.st_mode), set()
                self._read_at = read_at
        except FileNotFoundError:
            self._keys, self._read_at, self._unopened = (), None, set()
        except OSError as error:
            raise VaultError(f"{self._file}: {error.strerror}") from None
        return self._keys

    def _read(self, mode: int) -> tuple[str, ...]:
        if mode & 0o077:
            raise VaultError(f"{self._file} can be read by others than its owner: chmod 600, then hookd sources rekey")
        with self._file.open("rb") as file:
            keys = tuple(file.read(FILE_BYTES_MAX).decode("ascii", "replace").split())
        if not keys:
            raise VaultError(f"{self._file} holds no key")
        return keys

    def _make(self) -> tuple[str, ...]:
        """The first key. Of two processes that make one at once, both end up with the same."""
        try:
            self._file.parent.mkdir(0o700, parents=True, exist_ok=True)
            beside = self._beside([_new_key()], self._file.parent)
            try:
                os.link(beside, self._file)  # unlike a rename it takes no other's place
            except FileExistsError:
                pass
            finally:
                beside.unlink()
            _sync(self._file.parent)
        except OSError as error:
            raise VaultError(f"{self._file}: {error.strerror}") from None
        return self._current()

    def _write(self, keys: Sequence[str]) -> None:
        """Whole or not at all: a file beside it takes its place."""
        try:
            self._file.parent.mkdir(0o700, parents=True, exist_ok=True)
            beside = self._beside(keys, self._file if self._file.exists() else self._file.parent)
            os.replace(beside, self._file)
            _sync(self._file.parent)
        except OSError as error:
            raise VaultError(f"{self._file}: {error.strerror}") from None

    def _beside(self, keys: Sequence[str], like: Path) -> Path:
        """A file with these keys. Made by root, it belongs to the owner of `like`, whose processes are to read it."""
        path = self._file.with_name(f".{FILE}.{secrets.token_hex(8)}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as out:
            if os.geteuid() == 0:
                owner = like.stat()
                os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
            out.write("".join(f"{key}\n" for key in keys))
            out.flush()
            os.fsync(out.fileno())
        return path


def open_vault(common: CommonSettings) -> Vault:
    """The vault that the settings name. Nothing is read or made yet."""
    given = common.secret_key.get_secret_value() if common.secret_key is not None else None
    return Vault(given, data_folder(common.data_dir) / FILE)


def _sync(folder: Path) -> None:
    from chassis.folders import sync  # noqa: PLC0415 - with all that an embedded server needs

    sync(folder)


def _new_key() -> str:
    from cryptography.fernet import Fernet  # noqa: PLC0415

    return Fernet.generate_key().decode()
