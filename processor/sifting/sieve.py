"""Between the claim and the workers: what the body names, whether the sender sent it, whose the delivery is.

Nothing here waits for a handler, and no handler runs before it is committed whose the delivery is.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from processor import outcome
from processor.chooser import Chooser
from processor.holding.claimed import Claimed, Found
from processor.outcome import Ending, Outcome
from processor.settings import ProcessorSettings
from processor.sifting.certificates import Amazon, Coming, Unfetched
from processor.sifting.registry import Registry
from processor.sifting.store import Contender, Deliveries
from protocol import storable
from protocol.challenge import sns_confirmation
from protocol.request import Request
from protocol.schemes.sns import Sns, certificate_url
from protocol.source import VERIFIED, Source, verdict_text
from protocol.verdict import Refused

YIELD_EVERY = 50  # half a millisecond of verification
KEY_CHARACTERS_MAX = 128
DAY_SECONDS = 86_400.0


class Sieve:
    """Settles what no handler may see; the rest goes on, with what was found."""

    def __init__(
        self, registry: Registry, deliveries: Deliveries, chooser: Chooser, amazon: Amazon, settings: ProcessorSettings
    ) -> None:
        self._registry = registry
        self._deliveries = deliveries
        self._chooser = chooser
        self._amazon = amazon
        self._window_seconds_max = settings.retention_days * DAY_SECONDS

    async def sift(self, claimed: Sequence[Claimed], lane: int) -> dict[UUID, Outcome]:
        """Outcomes of those that no handler may see. Raises Unavailable: then none of them may go on.

        What needs more than its row, a large body or a certificate, is marked: it is sifted before its run.
        """
        await self._registry.know(claimed[0].row["revision"])
        sources = self._registry.sources
        concerned = [each for each in claimed if each.row["source"] in sources]
        if not concerned:
            return {}
        outcomes: dict[UUID, Outcome] = {}
        passed: list[tuple[Claimed, Source]] = []
        for number, each in enumerate(concerned, start=1):
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            source, row = sources[each.row["source"]], each.row
            if row["attempts"] > self._chooser.attempts_most:
                continue  # it has failed already
            if (each.is_large and asks(source, row)) or fetches(source):
                each.unsifted = True
            elif (ended := self._judge_guarded(each, source, row["payload"])) is not None:
                outcomes[each.id] = ended
            else:
                passed.append((each, source))
        return outcomes | await self._decided(passed, lane)

    async def sift_late(self, claimed: Claimed, body: bytes) -> Outcome | None:
        """The same for one that was marked. Raises Unavailable, and Coming: then it is asked for again."""
        source = self._registry.sources.get(claimed.row["source"])
        if source is None:  # it was removed meanwhile
            claimed.unsifted = False
            return None
        if fetches(source):
            ended = self._judge_amazons(claimed, source, body)
        else:  # a large body: hashing and parsing it takes a while
            ended = await asyncio.to_thread(self._judge_guarded, claimed, source, body)
        claimed.unsifted = False
        return ended or (await self._decided([(claimed, source)])).get(claimed.id)

    def _judge(self, claimed: Claimed, source: Source, body: bytes, certificate: bytes | None = None) -> Outcome | None:
        """Find out what is to be found; its outcome where that is the end of it."""
        row = claimed.row
        if not asks(source, row):
            return None
        found = found_in(source, row, request_of(row, body), certificate)
        claimed.learn(found)
        refused = found.verdict is not None and found.verdict != VERIFIED
        return outcome.unverified(found.verdict or "") if refused and source.mode != "monitor" else None

    def _judge_guarded(self, claimed: Claimed, source: Source, body: bytes) -> Outcome | None:
        try:
            return self._judge(claimed, source, body)
        except Exception as error:  # noqa: BLE001 - a mistake of ours in one provider must not stop the others
            return self._tried_again(claimed, outcome.ended_with(error))

    def _tried_again(self, claimed: Claimed, ending: Ending) -> Outcome:
        return outcome.conclude(ending, claimed.row["attempts"], self._chooser.attempts_most)

    def _judge_amazons(self, claimed: Claimed, source: Source, body: bytes) -> Outcome | None:
        """What Amazon SNS sent: judged by a certificate that it names; and its subscription, confirmed."""
        try:
            request = request_of(claimed.row, body)
            certificate = self._certificate(source, request, claimed.row)
            ended = self._judge(claimed, source, body, certificate)
            url = sns_confirmation(request)
            if ended is not None or url is None or verdict_of(claimed) != VERIFIED:
                return ended
            self._amazon.confirm(url)
        except Coming:
            raise
        except Unfetched as why:
            again = self._tried_again(claimed, Ending("retry", f"Amazon's host: {why}"))
            return again._replace(delay=max(again.delay, why.after))
        except Exception as error:  # noqa: BLE001 - as above
            return self._tried_again(claimed, outcome.ended_with(error))
        return outcome.CONFIRMED

    def _certificate(self, source: Source, request: Request, row: Mapping[str, Any]) -> bytes | None:
        """The one that the message names, if all else is right: nobody else has us fetch anything.

        Raises Coming, Unfetched.
        """
        if row["verdict"] == VERIFIED:
            return None
        verdict = source.judge(request, row["received_epoch"])
        url = certificate_url(request)
        if url is None or not isinstance(verdict, Refused) or verdict.check != "certificate":
            return None
        return self._amazon.certificate(url)

    async def _decided(self, passed: Sequence[tuple[Claimed, Source]], lane: int | None = None) -> dict[UUID, Outcome]:
        """Duplicates, and what a probe sent. The decision is committed when this returns."""
        contenders = [self._contender(each, source) for each, source in passed if self._contends(each, source)]
        owners = await self._deliveries.decide(contenders, lane) if contenders else {}
        outcomes = {each.id: outcome.PROBED for each, source in passed if source.is_probe}
        for each in contenders:
            owner = owners[each.event_id]
            if owner != each.event_id and not each.insists:
                outcomes[each.event_id] = outcome.duplicate(owner)
        return outcomes

    def _contends(self, claimed: Claimed, source: Source) -> bool:
        """Whether it may own its delivery: only what a handler will see may."""
        row = claimed.row
        if not is_whole(row["delivery_id"]) or source.duplicates == "none":
            return False
        if source.duplicates == "verified" and verdict_of(claimed) != VERIFIED:
            return False
        return source.is_probe or self._chooser.outlook(claimed) is not None

    def _contender(self, claimed: Claimed, source: Source) -> Contender:
        row = claimed.row
        window = min(source.window_seconds, self._window_seconds_max)
        return Contender(row["source"], key_of(row["delivery_id"]), claimed.id, window, row["replayed"])


def asks(source: Source, row: Mapping[str, Any]) -> bool:
    """Whether there is something to find out that the row does not say."""
    return is_judged(source, row) or row["event_type"] is None or row["delivery_id"] is None


def is_judged(source: Source, row: Mapping[str, Any]) -> bool:
    """What was verified once stays so: its secret may be gone when it is tried again."""
    return source.mode != "off" and row["verdict"] != VERIFIED


def fetches(source: Source) -> bool:
    """Whether something is fetched to judge it by."""
    return source.mode != "off" and isinstance(source.provider.scheme, Sns)


def found_in(source: Source, row: Mapping[str, Any], request: Request, certificate: bytes | None = None) -> Found:
    """The names that the row lacks, and the verdict. Pure."""
    event_type, delivery_id, verdict = None, None, None
    if row["event_type"] is None:
        event_type = storable.name(source.provider.event_type_of(request))
    if row["delivery_id"] is None:
        delivery_id = storable.name(source.provider.delivery_id_of(request))
    if is_judged(source, row):
        verdict = verdict_text(source.judge(request, row["received_epoch"], certificate))
        verdict = storable.text(verdict, storable.REASON_CHARACTERS_MAX)
    return Found(event_type, delivery_id, verdict)


def request_of(row: Mapping[str, Any], body: bytes) -> Request:
    return Request(row["method"], row["target"], orjson.loads(row["headers"]), body)


def verdict_of(claimed: Claimed) -> str | None:
    verdict: str | None = claimed.found.verdict or claimed.row["verdict"]
    return verdict


def is_whole(delivery_id: str | None) -> bool:
    """Whether it tells deliveries apart: of what was cut another may begin alike, and is rather handled twice."""
    return delivery_id is not None and len(delivery_id) < storable.NAME_CHARACTERS_MAX


def key_of(delivery_id: str) -> str:
    """A delivery's name, or its hash where it is too long for an index."""
    if len(delivery_id) <= KEY_CHARACTERS_MAX:
        return delivery_id
    return "sha256:" + hashlib.sha256(delivery_id.encode()).hexdigest()
