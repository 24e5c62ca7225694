"""Which scheme: the first whose header is there, or the one that the source itself describes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from protocol.request import Request
from protocol.signature import NO_OPTIONS
from protocol.verdict import Case, Scheme, UnverifiedError


@dataclass(frozen=True, slots=True)
class FirstOf:
    """Several schemes: the first whose header is there decides, and no other one may mend its verdict."""

    schemes: tuple[Scheme, ...]

    @property
    def tolerance_seconds(self) -> int | None:
        return self.schemes[0].tolerance_seconds

    def check(self, case: Case) -> int | None:
        return self.chosen(case.request).check(case)

    def chosen(self, request: Request) -> Scheme:
        return next((each for each in self.schemes if request.header(each.headers()[0]) is not None), self.schemes[0])

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return self.schemes[0].sign(request, key, at, options)

    def headers(self) -> tuple[str, ...]:
        return self.schemes[0].headers()


@dataclass(frozen=True, slots=True)
class ByOptions:
    """A scheme that the source itself describes: `make` turns its options into it."""

    tolerance_seconds: ClassVar[int | None] = None

    make: Callable[[Mapping[str, str]], Scheme]

    def check(self, case: Case) -> int | None:
        return self.scheme(case.options).check(case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return self.scheme(options).sign(request, key, at, options)

    def headers(self) -> tuple[str, ...]:
        return self.scheme(NO_OPTIONS).headers()

    def scheme(self, options: Mapping[str, str]) -> Scheme:
        """Raises UnverifiedError where the options describe none."""
        try:
            return _made(self.make, frozenset(options.items()))
        except (ValueError, TypeError):
            raise UnverifiedError("options", "the source's options describe no scheme") from None


@lru_cache(1024)
def _made(make: Callable[[Mapping[str, str]], Scheme], options: frozenset[tuple[str, str]]) -> Scheme:
    return make(dict(options))
