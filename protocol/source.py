"""A registered source: who sends there, how it is verified, and what is answered."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from protocol import content
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
COMMIT_SECONDS_MAX = 600
ANSWER_BYTES_MAX, ANSWER_HEADERS_MAX = 64 * 1024, 32
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
HEADER_VALUE = re.compile(r"([\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]{0,2000}[\x21-\x7e\xa1-\xff])?)?")
FRAMING = ("content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "date")
WINDOW_SECONDS = 7 * 24 * 3600
VERIFIED = "verified"
UNREADABLE = "its row in hookd.sources cannot be read: enter it with hookd sources"
FETCHING = ("aws-sns",)  # a receiver fetches nothing


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
    """A source from its row in one of the views `receiver_sources` and `processor_sources`, JSON as text.

    `unseal` raises ValueError. Then, where this hookd does not know the provider, and where somebody wrote a row by
    hand that cannot be read, the source has a fault: nothing of it is verified, and no other source suffers.
    """
    try:
        return _read(record, unseal)
    except (TypeError, ValueError, AttributeError):
        return Source(record["name"], PROVIDERS["none"], "edge", fault=UNREADABLE, is_probe=record["is_probe"])


def _read(record: Mapping[str, Any], unseal: Callable[[str], bytes]) -> Source:
    provider = PROVIDERS.get(record["provider"])
    fault = None if provider else f"this hookd knows no provider {record['provider']!r}"
    provider = provider or PROVIDERS["none"]
    options, secrets = dict(_json(record["options"])), tuple[Secret, ...]()
    try:
        secrets, secret_options = _opened(_json(record["secrets"]) or (), unseal)
        options = secret_options | options
    except ValueError as why:
        fault = str(why)
    if provider and secrets and not any(provider.takes(secret.value) for secret in secrets):
        fault = fault or f"none of its secrets is {provider.shape.says}"
    answer = answer_of(_json(record["answer"])) or provider.success
    if faults_of_answer(answer) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError(UNREADABLE)
    return Source(
        record["name"],
        provider,
        record["mode"],
        options,
        secrets,
        tuple(record["methods"]),
        answer,
        record["body_bytes_max"],
        record["commit_timeout_seconds"] or deadline_seconds(provider),
        record["duplicates"],
        record["window_seconds"],
        record["is_probe"],
        fault,
    )


def _json(text: str | None) -> Any:
    return None if text is None else content.parse_json(text.encode())


def _opened(
    sealed: Iterable[tuple[str, str, float | None]], unseal: Callable[[str], bytes]
) -> tuple[tuple[Secret, ...], dict[str, str]]:
    """Signing secrets, and the options that are secrets. Raises ValueError."""
    opened = [(name, Secret(unseal(each), expires_at)) for name, each, expires_at in sealed]
    options = {name: secret.value.decode("utf-8", "surrogateescape") for name, secret in reversed(opened)}
    options.pop(SECRET, None)
    return tuple(secret for name, secret in opened if name == SECRET), options


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
            (
                self.body_bytes_max is None or self.body_bytes_max >= BODY_BYTES_LEAST,
                f"body_bytes_max: {BODY_BYTES_LEAST} at least",
            ),
            (
                self.commit_timeout_seconds is None or 0 < self.commit_timeout_seconds <= COMMIT_SECONDS_MAX,
                f"commit_timeout_seconds: more than 0, {COMMIT_SECONDS_MAX} at most",
            ),
            (self.window_seconds > 0, "window_seconds: 1 at least"),
            (secrets <= SECRETS_MAX, f"{secrets} secrets: {SECRETS_MAX} at most"),
            (self.provider in PROVIDERS, f"provider {self.provider!r}: one of {', '.join(sorted(PROVIDERS))}"),
        )
        faults = [fault for is_right, fault in checks if not is_right] + faults_of_answer(self.answer)
        faults += [f"option {name!r}: text without NUL" for name, value in self.options.items() if not is_text(value)]
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


def faults_of_answer(answer: Success | None) -> list[str]:
    """What is wrong with an answer to what is stored; nothing where it is the provider's."""
    if answer is None:
        return []
    body = answer.body or b""
    faults = []
    if not (200 <= answer.status <= 299 and answer.status != 205):
        faults.append("answer: a status of 200 to 299 (not 205), for the event is stored")
    if answer.status == 204 and body:
        faults.append("answer: 204 has no body")
    if len(body) > ANSWER_BYTES_MAX or b"\0" in body:
        faults.append(f"answer: a body of text without NUL, of {ANSWER_BYTES_MAX} bytes at most")
    if len(answer.headers) > ANSWER_HEADERS_MAX:
        faults.append(f"answer: {ANSWER_HEADERS_MAX} headers at most")
    for name, value in answer.headers:
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            faults.append(f"answer: header {name!r}: a name, and a value of visible Latin characters and spaces")
        elif name.lower() in FRAMING:
            faults.append(f"answer: header {name!r} is the receiver's own")
    return faults


def is_text(value: str) -> bool:
    """Whether it may stand in the table."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def verdict_text(verdict: Verdict) -> str:
    """How a verdict stands in hookd.events.verdict."""
    return f"{verdict.check}: {verdict.reason}" if isinstance(verdict, Refused) else VERIFIED
