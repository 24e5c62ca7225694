"""A visit: probes are registered, tried and looked at; whatever happens, they are removed."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis.vault import Vault
from hookd.client import Answer, Client
from hookd.doctor.store import Registered, Store
from hookd.doctor.trials import (
    KNOWN,
    Probe,
    Sent,
    canary,
    faults_of,
    keeps_row,
    made,
    not_tried,
    probes_of,
    sent,
    trials_of,
)
from protocol.request import Request

KNOWN_SECONDS = 2.0  # every receiver knows of a source by then
KNOWN_TIMES = 8  # in a row, each on a connection of its own: behind one address there may be several receivers
KNOWN_SECONDS_MAX = 15.0
SETTLED_SECONDS_MAX = 75.0  # cron starts a processor once a minute
QUIET_SECONDS = 3.0  # what is refused at the edge is kept after its answer
AGAIN_SECONDS = 0.2

Tell = Callable[[str], object]


class Unknown(Exception):
    """The receiver does not know what is registered in this database."""


@dataclass
class Finding:
    """What was tried of a provider, and what is wrong."""

    provider: str
    tried: list[str] = field(default_factory=list)
    not_tried: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults


async def visit(
    store: Store, client: Client, vault: Vault, names: Sequence[str], *, keep: bool, tell: Tell
) -> list[Finding]:
    """Try these providers. Raises Unknown, Unreachable, Unavailable, VaultError."""
    await store.take_turn()
    await store.remove(await store.probes())
    run = secrets.token_hex(4)
    probes = [probe for name in names for probe in probes_of(name, run, time.time())]
    try:
        tell(f"registering {len(probes)} sources")
        registered = [Registered(canary(run), ())]
        registered += [Registered(probe.draft, sealed(vault, probe)) for probe in probes]
        least = await store.register(registered)
        await until_known(client, run, tell)
        answered = await send_all(client, probes, tell)
        sources = [probe.draft.name for probe in probes]
        rows = await until_settled(store, sources, least, answered, tell)
        return findings(names, probes, answered, rows)
    finally:
        if not keep:
            tell("removing the sources")
            await store.remove(await store.probes())


def sealed(vault: Vault, probe: Probe) -> list[tuple[str, str]]:
    return [(name, vault.seal(value.encode())) for name, value in probe.secrets]


async def until_known(client: Client, run: str, tell: Tell, seconds_max: float = KNOWN_SECONDS_MAX) -> None:
    """Return once the receiver knows the probes, and every other one behind its address must. Raises Unknown."""
    place = client.place
    request = Request("GET", place.target(canary(run).name), [("Host", place.host)], b"")
    began = time.monotonic()
    times = 0
    while times < KNOWN_TIMES:
        tell("waiting until the receiver knows them")
        answer = await to_its_end(client.send(request))
        times = times + 1 if answer.body == KNOWN else 0
        if times == 0:
            if time.monotonic() - began > seconds_max:
                raise Unknown(
                    f"after {seconds_max:.0f} s the receiver at {place.origin} does not know what was registered "
                    f"(it answers {answer.status}): does it use this database?"
                )
            await asyncio.sleep(AGAIN_SECONDS)
    await asyncio.sleep(began + KNOWN_SECONDS - time.monotonic())


async def send_all(client: Client, probes: Sequence[Probe], tell: Tell) -> list[Sent]:
    trials = [trial for probe in probes for trial in trials_of(probe, time.time())]
    answered = []
    for number, trial in enumerate(trials, start=1):
        tell(f"sending {number} of {len(trials)}: {trial.probe.draft.provider}, {trial.what}")
        at = time.time()
        request = made(trial, at, client.place.target(trial.probe.draft.name), client.place.host)
        answered.append(sent(trial, request, await to_its_end(client.send(request)), at))
    return answered


async def to_its_end(sending: Coroutine[Any, Any, Answer]) -> Answer:
    """Its answer; when we are told to stop meanwhile we wait for it, for a row that comes later nobody would remove."""
    task = asyncio.create_task(sending)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def until_settled(
    store: Store, sources: Sequence[str], least: UUID, answered: Sequence[Sent], tell: Tell
) -> Mapping[str, Mapping[str, Any]]:
    """The rows by their marks: once all that must be there are settled, or nothing more comes, or the time is over."""
    expected = sum(keeps_row(each) for each in answered)
    began = changed = time.monotonic()
    before = (0, 0)
    while True:
        settled, stored = now = await store.settled(sources, least)
        moment = time.monotonic()
        changed, before = (changed if now == before else moment), now
        is_quiet = settled == stored and moment - changed > QUIET_SECONDS
        if settled >= expected or is_quiet or moment - began > SETTLED_SECONDS_MAX:
            break
        tell(f"waiting for the processor: {settled} of {expected} settled")
        await asyncio.sleep(AGAIN_SECONDS)
    return await store.rows(sources, least)


def findings(
    names: Sequence[str], probes: Sequence[Probe], answered: Sequence[Sent], rows: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """What is wrong with each provider, if anything is."""
    found = {name: Finding(name, not_tried=not_tried(name)) for name in names}
    copies = defaultdict(list)
    for each in answered:
        if each.trial.what in ("delivery", "its copy") and each.trial.mark in rows:
            copies[each.trial.probe.draft.name].append(rows[each.trial.mark])
    for each in answered:
        draft = each.trial.probe.draft
        what = each.trial.what + (" at the edge" if draft.mode == "edge" else "")
        found[draft.provider].tried.append(what)
        faults = faults_of(each, rows.get(each.trial.mark), copies[draft.name])
        found[draft.provider].faults += [f"{what}: {fault}" for fault in faults]
    return list(found.values())
