"""What is tried of each provider, and what must have become of it. Pure: it sends nothing and asks nobody."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from hookd.client import Answer
from hookd.doctor.store import MARK
from protocol import challenge, content
from protocol.greetings import sample_handshake
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider, Success
from protocol.request import Request
from protocol.samples import Credentials, credentials, has_time, sample_delivery, sample_of
from protocol.signature import judge
from protocol.source import FETCHING, VERIFIED, Draft
from protocol.verdict import Verified

What: TypeAlias = Literal["handshake", "bad signature", "delivery", "its copy", "an old one", "another topic"]

PREFIX = "doctor"
NOBODY_HANDLES = "probe: no handler runs"
KNOWN = b"known"


@dataclass(frozen=True)
class Probe:
    """A source of the doctor's own, with the sample's credentials."""

    draft: Draft
    credentials: Credentials
    options: Mapping[str, str]
    delivery: str
    happened: float

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.draft.provider]

    @property
    def secrets(self) -> list[tuple[str, str]]:
        """What is kept sealed, by its name."""
        kept = [(each.name, self.options[each.name]) for each in self.provider.options if is_kept(each, self.options)]
        return [("secret", self.credentials.secret), *kept] if self.provider.credential else kept


def is_kept(option: Any, options: Mapping[str, str]) -> bool:
    return bool(option.is_secret) and option.name in options


class Trial(NamedTuple):
    """One request to a probe. `mark`: how its row is known again."""

    probe: Probe
    what: What
    mark: str


class Sent(NamedTuple):
    """A trial that was answered, and the handshake's answer that it should have had, where it is one."""

    trial: Trial
    request: Request
    answer: Answer
    greeting: challenge.Answer | None
    is_verified: bool


def canary(run: str) -> Draft:
    """A source whose answer tells that a receiver knows it, and all that were registered with it."""
    return Draft(f"{PREFIX}-known-{run}", "none", "off", methods=("GET",), answer=Success(200, (), KNOWN))


def probes_of(name: str, run: str, at: float) -> list[Probe]:
    """One that the processor judges; and one judged by the receiver, where that is allowed."""
    provider = PROVIDERS[name]
    given = credentials(provider, at)
    options = dict(sample_of(provider).options)
    shown = {each: value for each, value in options.items() if each not in secret_options(provider)}
    modes = ("deferred", "edge") if provider.credential else ("off",)
    drafts = [
        Draft(f"{PREFIX}-{name}-{run}" + ("-edge" if mode == "edge" else ""), name, mode, options=shown)
        for mode in modes
    ]
    allowed = [draft for draft in drafts if not replace(draft, options=options).faults(1 if provider.credential else 0)]
    return [Probe(draft, given, options, secrets.token_hex(8), at) for draft in allowed]


def secret_options(provider: Provider) -> set[str]:
    return {option.name for option in provider.options if option.is_secret}


def trials_of(probe: Probe, at: float) -> list[Trial]:
    """In the order they are sent. The forged one bears the genuine one's delivery id: it must not be in its way."""
    return [Trial(probe, what, secrets.token_hex(8)) for what in whats(probe, at)]


def whats(probe: Probe, at: float) -> Iterator[What]:
    if probe.draft.provider in FETCHING:
        yield "another topic"
        return
    if probe.draft.mode == "deferred" and probe.provider.handshake is not None:
        yield "handshake"
    if probe.provider.credential:
        yield "bad signature"
    yield "delivery"
    if probe.draft.mode != "edge":
        yield "its copy"
    if probe.draft.mode == "deferred" and has_time(probe.provider, at):
        yield "an old one"


def not_tried(name: str) -> str:
    """What of the provider cannot be tried here, and why."""
    if name in FETCHING:
        return "a good signature and its copy: they need a certificate of Amazon's"
    return ""


def made(trial: Trial, at: float, target: str, host: str) -> Request:
    """The request of a trial, marked. A sender's signature covers no header that it does not know."""
    probe = trial.probe
    provider, key, options = probe.provider, probe.credentials.key, probe.options
    if trial.what == "handshake":
        request = sample_handshake(provider, key, at, target=target, host=host, options=options)
        assert request is not None
    else:
        fault: Any = {"bad signature": "bad-signature", "an old one": "old"}.get(trial.what)
        request = sample_delivery(
            provider, key, at, delivery=probe.delivery, fault=fault, target=target, host=host, options=options,
            happened=probe.happened,
        )  # fmt: skip
    if trial.what == "another topic":
        topic = f"{probe.credentials.secret}-of-somebody-else"
        request = replace(request, body=content.with_field(request.body, "TopicArn", topic))
    return replace(request, headers=[*request.headers, (MARK, trial.mark)])


def sent(trial: Trial, request: Request, answer: Answer, at: float) -> Sent:
    """What was answered, beside what this hookd's own judgement says of the request."""
    probe = trial.probe
    known = [probe.credentials.secret] if probe.provider.credential else []
    greeting = challenge.answer(probe.provider, request, known, at, options=probe.options)
    verdict = judge(probe.provider, request, known, at, options=probe.options)
    return Sent(trial, request, answer, greeting, isinstance(verdict, Verified))


def keeps_row(each: Sent) -> bool:
    """Whether it is to be found in the table: a handshake is not, and what is refused at the edge is."""
    at_edge = each.trial.probe.draft.mode == "edge" and not each.is_verified
    return each.greeting is None and (each.answer.is_success or at_edge)


def faults_of(each: Sent, row: Mapping[str, Any] | None, copies: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the answer, or with the row. `copies`: the rows of the delivery and its copy."""
    if each.greeting is not None:
        faults = faults_of_greeting(each, each.greeting)
        return faults + (["a handshake was stored as an event"] if row is not None else [])
    if each.trial.probe.draft.mode == "edge" and not each.is_verified:
        return faults_at_edge(each, row)
    if not each.answer.is_success:
        return [f"answered {each.answer.status} {words(each.answer.body)}".rstrip()]
    if row is None:
        return ["answered 2xx, and there is no row"]
    return [*faults_of_answer(each, row), *faults_of_bytes(each, row), *faults_of_end(each, row, copies)]


def faults_of_greeting(each: Sent, expected: challenge.Answer) -> list[str]:
    answered = (each.answer.status, each.answer.body)
    if answered == (expected.status, expected.body):
        return []
    return [f"answered {each.answer.status} {words(each.answer.body)}, not {expected.status} {words(expected.body)}"]


def faults_at_edge(each: Sent, row: Mapping[str, Any] | None) -> list[str]:
    if each.answer.status != 401:
        return [f"answered {each.answer.status} at the edge, not 401"]
    if row is None:
        return ["refused at the edge, and not kept"]
    kept = row["status"] == "failed" and (row["reason"] or "").startswith("refused at the edge: ")
    return [] if kept else [f"refused at the edge, and kept as {row['status']}: {words(row['reason'])}"]


def faults_of_answer(each: Sent, row: Mapping[str, Any]) -> list[str]:
    success = each.trial.probe.provider.success
    if each.answer.status != success.status:
        return [f"answered {each.answer.status}, not {success.status}"]
    told = success.body if success.body is not None else content.to_json({"id": str(row["id"])})
    is_so = told == each.answer.body if success.body is not None else same_json(told, each.answer.body)
    return [] if is_so else [f"answered {words(each.answer.body)}, not {words(told)}"]


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def faults_of_bytes(each: Sent, row: Mapping[str, Any]) -> Iterator[str]:
    """Byte for byte what was sent."""
    if row["payload"] != each.request.body:
        yield "the body is not as it was sent"
    if (row["method"], row["target"]) != (each.request.method, each.request.target):
        yield "method or target are not as they were sent"
    names = {name for name, _ in each.request.headers}
    if [pair for pair in row["headers"] if pair[0] in names] != list(each.request.headers):
        yield "the headers are not as they were sent"


def faults_of_end(each: Sent, row: Mapping[str, Any], copies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Named, judged and settled as it should be."""
    if row["status"] == "new":
        yield "not settled in time: does a processor run?"
        return
    if not each.is_verified:
        yield from faults_of_refusal(each, row)
        return
    provider = each.trial.probe.provider
    for name, expected in (
        ("event_type", provider.event_type_of(each.request)),
        ("delivery_id", provider.delivery_id_of(each.request)),
        ("verdict", VERIFIED if provider.credential else None),
        ("status", "processed"),
    ):
        if row[name] != expected:
            yield f"{name} is {words(row[name])}, not {words(expected)}" + why(row)
    if row["status"] == "processed":
        yield from faults_of_copies(row, copies, has_id=provider.delivery_id_of(each.request) is not None)


def why(row: Mapping[str, Any]) -> str:
    return f" ({words(row['reason'])})" if row["reason"] else ""


def faults_of_refusal(each: Sent, row: Mapping[str, Any]) -> Iterator[str]:
    check = {"an old one": "timestamp: ", "another topic": "topic: "}.get(each.trial.what, "")
    refused = (row["verdict"] or VERIFIED) != VERIFIED and row["verdict"].startswith(check)
    if not refused:
        yield f"verdict is {words(row['verdict'])}, not {check or 'a refusal'}"
    if row["status"] != "failed" or not (row["reason"] or "").startswith("unverified: "):
        yield f"{row['status']}, not failed as unverified" + why(row)


def faults_of_copies(row: Mapping[str, Any], copies: Sequence[Mapping[str, Any]], *, has_id: bool) -> Iterator[str]:
    """Of a delivery and its copy one is handled; where nothing tells that it is a copy, both."""
    if not has_id or len(copies) < 2:
        if row["reason"] != NOBODY_HANDLES:
            yield f"reason is {words(row['reason'])}, not {NOBODY_HANDLES}"
        return
    winners = [each for each in copies if each["reason"] == NOBODY_HANDLES]
    if len(winners) != 1:
        yield f"of a delivery and its copy {len(winners)} were handled"
    elif row is not winners[0] and row["reason"] != f"duplicate of {winners[0]['id']}":
        yield f"reason is {words(row['reason'])}, not duplicate of {winners[0]['id']}"


def words(value: object) -> str:
    """For a person to read, on one line."""
    if value is None:
        return "none"
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 80 else text[:80] + "…"
