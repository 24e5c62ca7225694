"""`hookd sources` as people run it, and what it leaves in the tables."""

from pathlib import Path

from cryptography.fernet import Fernet

from chassis.database import Connection
from chassis.vault import Vault
from tests.commands import Hookd, Ran

SECRET = "the lamp is lit at nine"
KEY = Fernet.generate_key().decode()


def a_folder(database_url: str, path: Path) -> Hookd:
    """A folder with a secret in a file, and a key in the setting."""
    (path / "secret").write_text(SECRET + "\n")
    (path / "other").write_text("another\r\n")
    return Hookd(path, {"HOOKD_DATABASE_URL": database_url, "HOOKD_SECRET_KEY": KEY})


def words(line: str) -> list[str]:
    return line.split()


def ok(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


async def a_source(hookd: Hookd, name: str = "github", *more: str, provider: str = "github") -> None:
    ok(hookd("sources", "add", name, "--provider", provider, "--secret-file", "secret", *more))


async def secrets_of(connection: Connection, name: str = "github", key: str = KEY) -> list[tuple[bytes, bool]]:
    """What it is verified by, the current one first, and whether it has an end."""
    rows = await connection.fetch(
        "SELECT sealed, expires_at FROM hookd.secrets WHERE source = $1 AND name = 'secret' ORDER BY number DESC", name
    )
    return [(Vault(key, Path()).unseal(sealed), expires_at is not None) for sealed, expires_at in rows]


async def row(connection: Connection, name: str = "github") -> dict[str, object]:
    record = await connection.fetchrow("SELECT * FROM hookd.sources WHERE name = $1", name)
    assert record is not None
    return dict(record)
