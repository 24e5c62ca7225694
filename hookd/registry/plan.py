"""What a change of sources comes to: the faults that forbid it, and the steps it takes. Decides; writes nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from hookd.options import in_units
from protocol.providers import PROVIDERS
from protocol.samples import credentials, sample_delivery
from protocol.signature import Refused, judge
from protocol.source import SECRET, SECRETS_MAX, Draft

Action: TypeAlias = Literal["add", "change", "remove", "unchanged"]
Field: TypeAlias = tuple[str, str, str]  # its name, what was, what will be

OVERLAP = timedelta(hours=24)
SECRET_BYTES_MAX = 16 * 1024
HIDDEN = "(sealed)"
TOKEN_OR_KEY = ("gitlab",)  # what is no key is a token
ANY_TIME = 1_760_000_000


class Faults(Exception):
    """Everything that is wrong with what somebody means to register."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Kept:
    """A secret in the table. `sealed` is empty where nobody asked for it."""

    name: str
    number: int
    added_at: datetime
    expires_at: datetime | None
    sealed: str = field(default="", repr=False)


@dataclass(frozen=True)
class Registered:
    """A source in the table. `kept`: its secrets, the newest first. `seen_at`: when it was read, by that clock."""

    draft: Draft
    kept: tuple[Kept, ...]
    is_probe: bool
    added_at: datetime
    changed_at: datetime
    seen_at: datetime

    @property
    def good(self) -> list[Kept]:
        """Those it is verified by, the current one first."""
        return [
            each
            for each in self.kept
            if each.name == SECRET and (each.expires_at is None or each.expires_at > self.seen_at)
        ]

    @property
    def secret_options(self) -> list[str]:
        return sorted({each.name for each in self.kept if each.name != SECRET})


Known: TypeAlias = Mapping[str, Registered]


@dataclass(frozen=True)
class Fresh:
    """New secrets, the current one first, and new secret options. `unread`: what was given too, and cannot be read."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    options: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    unread: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.secrets or self.options)


@dataclass(frozen=True)
class Limits:
    """What the settings allow a source."""

    retention_days: int
    body_bytes_max: int

    @property
    def window_seconds(self) -> int:
        return self.retention_days * 86_400


@dataclass(frozen=True)
class Step:
    """What becomes of one source. `draft` None: it is removed."""

    name: str
    former: Registered | None
    draft: Draft | None
    fresh: Fresh = Fresh()
    overlap: timedelta = OVERLAP

    @property
    def action(self) -> Action:
        if self.former is None:
            return "add"
        if self.draft is None:
            return "remove"
        return "change" if self.fields() else "unchanged"

    def fields(self) -> list[Field]:
        """What differs, in words; no secret among them."""
        before = words_of(self.former.draft) if self.former else {}
        after = words_of(self.draft) if self.draft else {}
        names = list(dict.fromkeys([*after, *before]))
        found = [(name, before.get(name, ""), after.get(name, "")) for name in names]
        return [each for each in found if each[1] != each[2]] + (list(self._secrets()) if self.draft else [])

    def ending(self) -> list[Kept]:
        """Secrets that end with the overlap, for newer ones take their place."""
        if self.former is None or not self.fresh.secrets:
            return []
        end = self.former.seen_at + self.overlap
        return [each for each in self.former.good if each.expires_at is None or each.expires_at > end]

    def dropped(self) -> list[Kept]:
        """Secret options that are replaced or gone; and of expired secrets, the oldest, where there are too many."""
        if self.former is None or self.draft is None:
            return []
        known = secret_options_of(self.draft.provider)
        gone = {name for name in self.former.secret_options if name in self.fresh.options or name not in known}
        signing = [each for each in self.former.kept if each.name == SECRET]
        good = {each.number for each in self.former.good}
        too_many = max(len(signing) + len(self.fresh.secrets) - SECRETS_MAX, 0)
        expired = [each for each in reversed(signing) if each.number not in good][:too_many]
        return [each for each in self.former.kept if each.name in gone] + expired

    def faults(self, limits: Limits) -> list[str]:
        """What is wrong with the source as it would be."""
        if self.draft is None:
            return []
        gone = {each.number for each in self.dropped()}
        kept = [each for each in (self.former.kept if self.former else ()) if each.number not in gone]
        fresh = self.fresh
        count = sum(each.name == SECRET for each in kept) + len(fresh.secrets) + fresh.unread.count(SECRET)
        hidden = {each.name for each in kept if each.name != SECRET} | {*fresh.options, *fresh.unread} - {SECRET}
        return faults_of(self.draft, count, hidden, limits)

    def faults_of_keys(self) -> list[str]:
        """New secrets that are no key of the provider's kind: nothing could ever be verified by them.

        Asked of a source that has no other fault.
        """
        if self.draft is None:
            return []
        provider = PROVIDERS[self.draft.provider]
        if not all(map(provider.takes, self.fresh.secrets)):
            return [f"secret: {provider.shape.says} is expected"]
        wrong = any(is_no_key(self.draft, secret) for secret in self.fresh.secrets)
        return [f"secret: it cannot be read as {provider.credential}"] if wrong else []

    def _secrets(self) -> Sequence[Field]:
        fresh, ending = len(self.fresh.secrets), len(self.ending())
        before = f"{len(self.former.good)}" if self.former else ""
        after = f"{fresh} new" + (f", {ending} until {in_units(self.overlap)} from now" if ending else "")
        signing = [("secrets", before, after)] if fresh else []
        return signing + [(f"options.{name}", "", f"new {HIDDEN}") for name in self.fresh.options]


def faults_of(draft: Draft, secrets: int, hidden: set[str], limits: Limits) -> list[str]:
    """What is wrong with a source that has so many secrets, and these secret options."""
    shown = {name for name in draft.options if name in secret_options_of(draft.provider)}
    whole = replace(draft, options={**draft.options, **dict.fromkeys(hidden, HIDDEN)})
    faults = whole.faults(secrets)
    faults += [f"option {name} is a secret: give a file with it (--option-file {name}=FILE)" for name in sorted(shown)]
    if draft.window_seconds > limits.window_seconds:
        faults.append(
            f"window: {limits.retention_days}d at most (HOOKD_RETENTION_DAYS): a key is of no use without its event"
        )
    if (draft.body_bytes_max or 0) > limits.body_bytes_max:
        faults.append(f"body_bytes_max: {limits.body_bytes_max} at most (HOOKD_BODY_BYTES_MAX)")
    return faults


def faults_at_best(draft: Draft, fresh: Fresh, limits: Limits) -> list[str]:
    """What is wrong with a source whatever is registered: secrets that are not given may be there already."""
    provider = PROVIDERS.get(draft.provider)
    secrets = len(fresh.secrets) or int(bool(provider and provider.credential))
    faults = faults_of(draft, secrets, secret_options_of(draft.provider), limits)
    return faults or Step(draft.name, None, draft, fresh).faults_of_keys()


def is_no_key(draft: Draft, secret: bytes) -> bool:
    """Whether a delivery that its sender did sign is refused for the secret itself, not for its signature."""
    provider = PROVIDERS.get(draft.provider)
    sample = provider.sample if provider else None
    if provider is None or sample is None or sample.key == "rsa" or draft.provider in TOKEN_OR_KEY:
        return False
    options = {**sample.options, **draft.options}
    try:
        sent = sample_delivery(provider, credentials(provider, ANY_TIME).key, ANY_TIME, options=options)
    except ValueError:  # the sample's key is of another kind than the source's options say
        return False
    verdict = judge(provider, sent, [secret], ANY_TIME, options=options)
    return isinstance(verdict, Refused) and verdict.check == "secret"


def faults_of_fresh(fresh: Fresh) -> list[str]:
    """What is wrong with new secrets, which stay out of it."""
    values = [(SECRET, value) for value in fresh.secrets] + list(fresh.options.items())
    faults = [f"{name}: it is empty" for name, value in values if not value]
    faults += [f"{name}: {SECRET_BYTES_MAX} bytes at most" for name, value in values if len(value) > SECRET_BYTES_MAX]
    if len(set(fresh.secrets)) < len(fresh.secrets):
        faults.append("secret: the same one twice")
    return faults


def without_known(fresh: Fresh, former: Registered | None, unseal: Callable[[str], bytes | None]) -> Fresh:
    """Those of the new secrets that are not the source's own already. `unseal`: None for what cannot be read."""
    if former is None:
        return fresh
    lasting = [unseal(each.sealed) for each in former.good if each.expires_at is None]
    newest = {each.name: unseal(each.sealed) for each in reversed(former.kept) if each.name != SECRET}
    options = {name: value for name, value in fresh.options.items() if newest.get(name) != value}
    return Fresh(() if lasting == list(fresh.secrets) else fresh.secrets, options)


def secret_options_of(provider: str) -> set[str]:
    return {each.name for each in PROVIDERS[provider].options if each.is_secret} if provider in PROVIDERS else set()


def words_of(draft: Draft) -> dict[str, str]:
    """Each thing that is said of a source, but for its name; what is not said is not there."""
    answer = draft.answer
    said = {
        "provider": draft.provider,
        "mode": draft.mode,
        **{f"options.{name}": value for name, value in sorted(draft.options.items())},
        "methods": ", ".join(draft.methods),
        "duplicates": draft.duplicates,
        "window": in_units(timedelta(seconds=draft.window_seconds)),
        "body_bytes_max": str(draft.body_bytes_max) if draft.body_bytes_max is not None else None,
        "commit_timeout_seconds": (
            f"{draft.commit_timeout_seconds:g}" if draft.commit_timeout_seconds is not None else None
        ),
        "answer.status": str(answer.status) if answer else None,
        "answer.headers": ", ".join(f"{name}: {value}" for name, value in answer.headers) if answer else None,
        "answer.body": answer.body.decode() if answer and answer.body is not None else None,
    }
    return {name: value for name, value in said.items() if value is not None}
