"""Secrets at rest: sealed with the keys of HOOKD_SECRET_KEY, or of a file that only its owner may read."""

import os
from collections.abc import Sequence
from pathlib import Path

from chassis.settings import CommonSettings, data_folder

FILE = "secret.key"
KEYS_KEPT = 2  # the new one and the one before it: running processes still have what that one sealed

# `cryptography` is imported with the first secret: most processes have none, and it costs 40 ms.


class VaultError(Exception):
    """What is wrong with the keys, or with what they should open; no key and no secret in it."""


class Vault:
    """Seals with the first key, unseals with any. Without HOOKD_SECRET_KEY the keys are those of the file."""

    def __init__(self, given: str | None, file: Path) -> None:
        self._file = file
        self._given = tuple(each.strip() for each in given.split(",") if each.strip()) if given else ()
        self._keys: tuple[str, ...] = ()
        self._opened: dict[str, bytes] = {}

    def seal(self, secret: bytes) -> str:
        """Seal with the first key; the file is made where there is neither file nor setting. Raises VaultError."""
        from cryptography.fernet import Fernet  # noqa: PLC0415

        keys = self._given or self._read() or self._write([_new_key()])
        try:
            return Fernet(keys[0]).encrypt(secret).decode()
        except ValueError:
            raise self._unusable() from None

    def unseal(self, sealed: str) -> bytes:
        """Raises VaultError."""
        if (opened := self._opened.get(sealed)) is not None:
            return opened
        secret = self._open(sealed, self._given or self._keys or self._read())
        if secret is None and not self._given:  # another process may have made a new key since
            secret = self._open(sealed, self._read())
        if secret is None:
            raise VaultError(f"a secret cannot be read with the key of {self.origin}")
        self._opened[sealed] = secret
        return secret

    def renew(self) -> None:
        """Make a new first key in the file. Raises VaultError where the setting has the keys."""
        if self._given:
            raise VaultError("HOOKD_SECRET_KEY holds the keys: put a new one first, a comma between, then rekey")
        self._write([_new_key(), *self._read()][:KEYS_KEPT])

    @property
    def is_given(self) -> bool:
        """Whether the keys are those of the setting."""
        return bool(self._given)

    @property
    def origin(self) -> str:
        return "HOOKD_SECRET_KEY" if self._given else str(self._file)

    def _open(self, sealed: str, keys: Sequence[str]) -> bytes | None:
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415

        if not keys:
            return None
        try:
            return MultiFernet([Fernet(key) for key in keys]).decrypt(sealed)
        except InvalidToken:
            return None
        except ValueError:
            raise self._unusable() from None

    def _unusable(self) -> VaultError:
        return VaultError(
            f"{self.origin}: expected Fernet keys, 32 bytes in base64url each (hookd sources rekey --help)"
        )

    def _read(self) -> tuple[str, ...]:
        try:
            mode = self._file.stat().st_mode
            if mode & 0o077:
                raise VaultError(f"{self._file} can be read by others than its owner: chmod 600, then rekey")
            self._keys = tuple(self._file.read_text().split())
        except FileNotFoundError:
            self._keys = ()
        except OSError as error:
            raise VaultError(f"{self._file}: {error.strerror}") from None
        return self._keys

    def _write(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Whole or not at all: a file beside it takes its place."""
        beside = self._file.with_name(f".{FILE}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write("".join(f"{key}\n" for key in keys))
                out.flush()
                os.fsync(out.fileno())
            os.replace(beside, self._file)
        except OSError as error:
            raise VaultError(f"{self._file}: {error.strerror}") from None
        self._keys = tuple(keys)
        return self._keys


def open_vault(common: CommonSettings) -> Vault:
    """The vault that the settings name. Nothing is read or made yet."""
    given = common.secret_key.get_secret_value() if common.secret_key is not None else None
    return Vault(given, data_folder(common.data_dir) / FILE)


def _new_key() -> str:
    from cryptography.fernet import Fernet  # noqa: PLC0415

    return Fernet.generate_key().decode()
