"""What a processor knows of sources; with secrets that it cannot read it does not start."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chassis.database import Connection, Database
from chassis.vault import Vault
from processor.sifting.registry import UNREGISTERED, Registry, Unjudgeable
from processor.store import Store
from tests.born import hookd
from tests.factories import row_of
from tests.processing import Gate, Watch, an_app, parts_of, processing
from tests.registering import VAULT, a_delivery, a_source, change_secret

pytestmark = pytest.mark.any_server

KEY, ANOTHER_KEY = "dGVzdHMtc2VhbC13aXRoLXRoaXMtMzItYnl0ZS1rZXk=", "YW5vdGhlci1rZXktb2YtMzItYnl0ZXMtZm9yLXRlc3Q="
ANOTHER_VAULT = Vault(ANOTHER_KEY, Path("/nowhere"))
UNREADABLE = "a secret cannot be read with the key of HOOKD_SECRET_KEY: it was sealed with another"


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


async def test_what_it_knows(database: Database, connection: Connection) -> None:
    """Registered sources with their secrets, the newest first; and of the others those that bear a provider's name."""
    store = Store(database, "me", lease_seconds=60)
    registry = Registry(store.sources, VAULT)
    await registry.open()
    assert registry.sources == UNREGISTERED
    assert (UNREGISTERED["stripe"].mode, UNREGISTERED["stripe"].duplicates) == ("off", "none")
    await a_source(connection, "shop", "stripe", "edge", secret="one", options={"tolerance_seconds": "9"})
    await connection.execute("INSERT INTO hookd.secrets (source, sealed) VALUES ('shop', $1)", VAULT.seal(b"two"))
    await registry.read()
    shop = registry.sources["shop"]
    assert ([each.value for each in shop.secrets], shop.mode, shop.fault) == ([b"two", b"one"], "edge", None)
    assert shop.options == {"tolerance_seconds": "9"}
    await store.close()


async def test_it_is_read_when_it_changed(database: Database, connection: Connection) -> None:
    """As long as the revision is the one known, nothing is read; with another, all is."""
    store = Store(database, "me", lease_seconds=60)
    registry = Registry(store.sources, VAULT)
    await registry.open()
    before = registry.sources
    assert registry.revision is not None
    await registry.know(registry.revision)
    assert registry.sources is before
    await a_source(connection, "shop", "stripe")
    await registry.know(registry.revision + 1)
    assert "shop" in registry.sources
    await store.close()


@pytest.mark.parametrize("mode", ["deferred", "edge", "monitor"])
@pytest.mark.parametrize("once", [(), ("--once",)])
async def test_it_does_not_start(
    once: tuple[str, ...], mode: str, database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """A processor that cannot read a secret it should verify by says whose, in a line, and exits 1: no event fails."""
    await a_source(connection, mode=mode, vault=ANOTHER_VAULT)
    event_id = await a_delivery(connection)
    app = an_app(tmp_path, '@hookd.on("*")\nasync def note(event): pass\n')
    async with hookd("processor", "--app", app, *once, database_url=database_url, secret_key=KEY) as processor:
        assert await processor.ended() == 1
    words = [line["text"].strip() for line in processor.lines if line["event"] == "unstructured"]
    assert words == [f"Error: cannot verify github: {UNREADABLE}"]
    assert (await row_of(connection, event_id))["claims"] == 0


async def test_off_needs_no_secret(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """A source that is not verified keeps nobody from starting, whatever its secrets are."""
    await a_source(connection, mode="off", vault=ANOTHER_VAULT)
    event_id = await a_delivery(connection)
    app = an_app(tmp_path, '@hookd.on("*")\nasync def note(event): pass\n')
    async with hookd("processor", "--app", app, "--once", database_url=database_url, secret_key=KEY) as processor:
        assert await processor.ended() == 0
    assert (await row_of(connection, event_id))["status"] == "processed"


async def test_unreadable_while_at_work(database: Database, connection: Connection, watch: Watch) -> None:
    """A secret that cannot be read, found at work, fails its source's events alone, says so, and shows no secret."""
    async with processing(database, Gate(is_open=True).pass_through):
        with capture_logs() as logs:
            await a_source(connection, vault=ANOTHER_VAULT)
            event_id = await a_delivery(connection)
            other = await a_delivery(connection, "stripe")
            settled = await watch.settled()
        assert settled == {
            event_id: ("failed", f"unverified: secret: {UNREADABLE}"),
            other: ("processed", None),
        }
        told = [each for each in logs if each["event"] == "source.unreadable"]
        assert [(each["source"], each["reason"]) for each in told] == [("github", UNREADABLE)]


async def test_all_faults_are_told(database: Database, connection: Connection) -> None:
    """Every source that cannot be verified is named, also one of a provider that a newer hookd knows."""
    await a_source(connection, "a", "github", vault=ANOTHER_VAULT)
    await a_source(connection, "b", "github")
    await connection.execute("UPDATE hookd.sources SET provider = 'of-tomorrow' WHERE name = 'b'")
    parts = parts_of(database)
    with pytest.raises(Unjudgeable) as error:
        await parts.registry.open()
    assert str(error.value) == f"cannot verify a: {UNREADABLE}; b: this hookd knows no provider 'of-tomorrow'"
    await change_secret(connection, "a", "mended")
    await parts.store.close()
