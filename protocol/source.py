"""A registered source: who sends there, how it is verified, and what is answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from protocol.providers import PROVIDERS, Provider
from protocol.providers.provider import Success
from protocol.request import SOURCE, Request
from protocol.signature import judge
from protocol.verdict import Refused, Verdict

Mode: TypeAlias = Literal["deferred", "edge", "monitor", "off"]
Duplicates: TypeAlias = Literal["verified", "all", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
DUPLICATES: tuple[Duplicates, ...] = get_args(Duplicates)

SECRET = "secret"  # noqa: S105 - the name under which signing secrets are kept
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS")
SECRETS_MAX = 8  # at once; a rotation has two
BODY_BYTES_LEAST = 1024
WINDOW_SECONDS = 7 * 24 * 3600
VERIFIED = "verified"
FETCHING = ("aws-sns",)  # a receiver fetches nothing


class Unsealable(Exception):
    """A secret cannot be read with the keys at hand."""


class Secret(NamedTuple):
    """What a sender signs with. `expires_at`: good for what was received before, seconds since 1970."""

    value: bytes
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What is registered. `secrets`: the newest first. `fault`: why nothing of it can be verified."""

    name: str
    provider: Provider
    mode: Mode = "off"
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    methods: tuple[str, ...] = ("POST",)
    answer: Success = Success()  # noqa: RUF009 - a tuple
    body_bytes_max: int | None = None
    commit_timeout_seconds: float | None = None
    duplicates: Duplicates = "verified"
    window_seconds: int = WINDOW_SECONDS
    is_probe: bool = False
    fault: str | None = None

    def secrets_at(self, moment: float) -> list[bytes]:
        """Those that are good for what was received at that time, the newest first."""
        return [value for value, expires_at in self.secrets if expires_at is None or moment < expires_at]

    def judge(self, request: Request, received_at: float, certificate: bytes | None = None) -> Verdict:
        """Whether its sender sent the request. `received_at`: seconds since 1970."""
        if self.fault is not None:
            return Refused("secret", self.fault)
        secrets = self.secrets_at(received_at)
        return judge(self.provider, request, secrets, received_at, options=self.options, certificate=certificate)


def source_of(record: Mapping[str, Any], unseal: Callable[[str], bytes]) -> Source:
    """A source from its row in one of the views `receiver_sources` and `processor_sources`, JSON decoded.

    `unseal` raises Unsealable; then, and where this hookd does not know the provider, the source has a fault: nothing
    of it is verified.
    """
    name, mode = record["name"], record["mode"]
    provider = PROVIDERS.get(record["provider"])
    fault = None if provider else f"this hookd knows no provider {record['provider']!r}"
    secrets: list[Secret] = []
    options = dict(record["options"])
    try:
        for called, sealed, expires_at in record["secrets"] or ():
            value = unseal(sealed)
            if called == SECRET:
                secrets.append(Secret(value, expires_at))
            else:
                options.setdefault(called, value.decode("utf-8", "surrogateescape"))
    except Unsealable as why:
        fault = str(why)
    provider = provider or PROVIDERS["none"]
    return Source(
        name,
        provider,
        mode,
        options,
        tuple(secrets),
        tuple(record["methods"]),
        answer_of(record["answer"]) or provider.success,
        record["body_bytes_max"],
        record["commit_timeout_seconds"] or deadline_seconds(provider),
        record["duplicates"],
        record["window_seconds"],
        record["is_probe"],
        fault,
    )


def answer_of(stored: Mapping[str, Any] | None) -> Success | None:
    """The answer that stands in hookd.sources.answer."""
    if stored is None:
        return None
    body = stored.get("body")
    headers = tuple((name, value) for name, value in stored.get("headers", ()))
    return Success(stored.get("status", 200), headers, body.encode() if body is not None else None)


def deadline_seconds(provider: Provider) -> float | None:
    """How long a commit may take: the sender's patience less a second for the way; of little patience half."""
    patience = provider.patience_seconds
    return max(patience - 1, patience / 2) if patience is not None else None


@dataclass(frozen=True, slots=True)
class Draft:
    """A source as somebody means to register it, without its secrets."""

    name: str
    provider: str
    mode: str = "deferred"
    options: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ("POST",)
    answer: Success | None = None
    body_bytes_max: int | None = None
    commit_timeout_seconds: float | None = None
    duplicates: str = "verified"
    window_seconds: int = WINDOW_SECONDS

    @property
    def at_receipt(self) -> bool:
        """Whether the receiver needs its secrets: it judges, or answers handshakes."""
        return self.mode == "edge" or PROVIDERS[self.provider].handshake is not None

    def faults(self, secrets: int) -> list[str]:
        """What is wrong with it, all of it, if it had so many secrets."""
        checks = (
            (
                SOURCE.fullmatch(self.name),
                f"{self.name!r}: expected a name such as github: [a-z0-9][a-z0-9._-]{{0,63}}",
            ),
            (self.mode in MODES, f"mode {self.mode!r}: expected one of {', '.join(MODES)}"),
            (self.duplicates in DUPLICATES, f"duplicates {self.duplicates!r}: one of {', '.join(DUPLICATES)}"),
            (self.methods, "methods: at least one"),
            (set(self.methods) <= set(METHODS), f"methods {', '.join(self.methods)}: some of {', '.join(METHODS)}"),
            (fits(self.answer), "answer: a status of 200 to 299, for the event is stored; 204 has no body"),
            (
                (self.body_bytes_max or BODY_BYTES_LEAST) >= BODY_BYTES_LEAST,
                f"body_bytes_max: {BODY_BYTES_LEAST} at least",
            ),
            (0 < (self.commit_timeout_seconds or 1) <= 600, "commit_timeout_seconds: more than 0, 600 at most"),
            (self.window_seconds > 0, "window_seconds: 1 at least"),
            (secrets <= SECRETS_MAX, f"{secrets} secrets: {SECRETS_MAX} at most"),
            (self.provider in PROVIDERS, f"provider {self.provider!r}: one of {', '.join(sorted(PROVIDERS))}"),
        )
        faults = [fault for is_right, fault in checks if not is_right]
        return faults + (self._faults_of_verification(secrets) if self.provider in PROVIDERS else [])

    def _faults_of_verification(self, secrets: int) -> list[str]:
        provider = PROVIDERS[self.provider]
        signs = bool(provider.credential)
        checks = (
            (not signs or secrets or self.mode == "off", f"a secret is needed ({provider.credential}), or mode off"),
            (signs or not secrets, f"{self.provider} has no secret"),
            (signs or self.mode == "off", f"{self.provider} proves nothing that could be judged: mode off"),
            (
                self.mode != "edge" or self.provider not in FETCHING,
                f"{self.provider} signs by a certificate that is fetched first: mode deferred",
            ),
        )
        return provider.faults_of(self.options) + [fault for is_right, fault in checks if not is_right]


def fits(answer: Success | None) -> bool:
    """Whether it may be answered to what is stored."""
    return answer is None or (200 <= answer.status <= 299 and not (answer.status == 204 and answer.body))


def verdict_text(verdict: Verdict) -> str:
    """How a verdict stands in hookd.events.verdict."""
    return f"{verdict.check}: {verdict.reason}" if isinstance(verdict, Refused) else VERIFIED
