"""A provider with its sample, judged as its deliveries are."""

from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.samples import Credentials, credentials, sample_delivery
from protocol.signature import judge
from protocol.verdict import Refused, Verdict

AT = 1_750_000_000.0


class Tried:
    """A provider with its sample, and everything that it takes to judge it."""

    def __init__(self, name: str) -> None:
        self.provider: Provider = PROVIDERS[name]
        assert self.provider.sample is not None
        self.options = self.provider.sample.options
        self.credentials: Credentials = credentials(self.provider, AT)
        self.request = sample_delivery(self.provider, self.credentials.key, AT, options=self.options)

    def judge(self, request: Request | None = None, *secrets: str | bytes, at: float = AT) -> Verdict:
        return judge(
            self.provider,
            self.request if request is None else request,
            secrets or [self.credentials.secret],
            at,
            options=self.options,
            certificate=self.credentials.certificate,
        )

    @property
    def has_time(self) -> bool:
        old = sample_delivery(self.provider, self.credentials.key, AT, fault="old", options=self.options)
        return isinstance(self.judge(old), Refused)
