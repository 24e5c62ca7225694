"""What must be right before anything can be tried: database, clocks, days, keys, receiver, processor."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from chassis.vault import Vault, VaultError
from hookd.client import Client, Unreachable, Untrusted
from hookd.doctor.store import Store
from hookd.show import duration
from protocol.request import Request
from protocol.source import source_of

OFFSET_SECONDS_MAX = 2.0  # Paddle allows five, and the way here takes its part
MAINTAINED_SECONDS_MAX = 3600.0  # it runs every ten minutes


class Check(NamedTuple):
    """One line: what was looked at, whether it is well, and what is so or what to do."""

    name: str
    ok: bool
    says: str


async def examine(store: Store, client: Client, vault: Vault) -> list[Check]:
    """All checks. Raises Unavailable where the database cannot be asked."""
    server = await store.server()
    records = await store.sources()
    return [
        Check("database", True, f"PostgreSQL {server['version']}, schema at revision {server['revision']}"),
        durability(server),
        days(server),
        clock(await store.clock_offset_seconds()),
        keys(vault, records),
        await receiver(client),
        processor(server),
    ]


def durability(server: Mapping[str, Any]) -> Check:
    off = [name for name in ("fsync", "synchronous_commit") if server[name] == "off"]
    if off:
        return Check("durability", False, f"{' and '.join(off)} off: turn it on, or an answered webhook may be lost")
    return Check("durability", True, f"fsync {server['fsync']}, synchronous_commit {server['synchronous_commit']}")


def days(server: Mapping[str, Any]) -> Check:
    wanted = {server["today"] + timedelta(days=n) for n in range(2)}
    missing = [day.isoformat() for day in sorted(wanted - set(server["days"]))]
    if missing:
        return Check("partitions", False, f"none for {' and '.join(missing)}: run hookd migrate, and keep a processor")
    return Check("partitions", True, "today's and tomorrow's are there")


def clock(offset_seconds: float) -> Check:
    """Signed times are judged by the database's clock."""
    ahead = "ahead of" if offset_seconds > 0 else "behind"
    says = f"the database's is {abs(offset_seconds):.3f} s {ahead} this machine's"
    if abs(offset_seconds) > OFFSET_SECONDS_MAX:
        return Check("clocks", False, f"{says}: signatures are judged by the database's; let NTP set both")
    return Check("clocks", True, says)


def keys(vault: Vault, records: list[dict[str, Any]]) -> Check:
    """A word can be sealed, and every source's secrets can be read."""
    try:
        vault.unseal(vault.seal(b"hookd doctor"))
    except VaultError as error:
        return Check("secret key", False, str(error))
    sources = [source_of(record, vault.unseal) for record in records]
    faults = [f"{source.name}: {source.fault}" for source in sources if source.fault]
    if faults:
        return Check("secret key", False, "; ".join(faults))
    return Check("secret key", True, f"{vault.origin} opens the secrets of all {len(sources)} registered sources")


async def receiver(client: Client) -> Check:
    place = client.place
    try:
        answer = await client.send(Request("GET", "/-/ready", [("Host", place.host)], b""))
    except Untrusted as error:
        return Check("receiver", False, str(error))
    except Unreachable as error:
        return Check("receiver", False, f"{error}; start hookd up or hookd ingest, or name it with --to")
    if answer.status == 503:
        return Check("receiver", False, f"{place.origin} cannot commit: does it reach its database?")
    if answer.status != 200:  # a proxy need not let anybody see it
        return Check("receiver", True, f"{place.origin} answers {answer.status} at /-/ready")
    return Check("receiver", True, f"{place.origin} is ready")


def processor(server: Mapping[str, Any]) -> Check:
    """It is connected, or has been here lately, as one that cron starts."""
    ago = server["maintained_seconds_ago"]
    seen = [f"{server['processor_connections']} connections"] if server["processor_connections"] else []
    seen += [f"maintenance {duration(ago)} ago"] if ago is not None else []
    if not server["processor_connections"] and (ago is None or ago > MAINTAINED_SECONDS_MAX):
        return Check("processor", False, "none seems to run: start hookd up, or hookd processor --app …")
    return Check("processor", True, ", ".join(seen))
