"""The secret itself is shown: a token, HTTP Basic; or nothing is."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar
from urllib.parse import quote

from protocol.request import Request
from protocol.signature import as_bytes, first_same, with_headers
from protocol.verdict import Case, UnverifiedError


@dataclass(frozen=True, slots=True)
class Token:
    """The secret itself, in a header or in the query."""

    tolerance_seconds: ClassVar[int | None] = None

    header: str = ""
    prefix: str = ""
    query: str = ""

    def check(self, case: Case) -> int:
        where = self.header or f"the query's {self.query}"
        given = case.needed_header(self.header) if self.header else case.request.query().get(self.query)
        if given is None:
            raise UnverifiedError("header", f"no {self.query} in the query")
        if not given.startswith(self.prefix):
            raise UnverifiedError("format", f"{where} does not begin with {self.prefix!r}")
        # A query's escapes are UTF-8; a header's bytes came as ISO-8859-1.
        token = given[len(self.prefix) :].encode("latin-1" if self.header else "utf-8", "replace")
        return first_same(case, token, where)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        if self.header:
            return with_headers(request, [(self.header, self.prefix + as_bytes(key).decode("latin-1"))])
        mark = "&" if "?" in request.target else "?"
        return replace(request, target=f"{request.target}{mark}{self.query}={quote(key, safe='')}")

    def headers(self) -> tuple[str, ...]:
        return (self.header,) if self.header else ()


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic; the secret is `user:password`."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        scheme, _, credentials = case.needed_header("Authorization").partition(" ")
        if scheme.lower() != "basic":
            raise UnverifiedError("format", "Authorization is not Basic")
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except ValueError:
            raise UnverifiedError("format", "Authorization is not base64") from None
        return first_same(case, given, "Authorization")

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return with_headers(request, [("Authorization", "Basic " + base64.b64encode(as_bytes(key)).decode())])

    def headers(self) -> tuple[str, ...]:
        return ("Authorization",)


@dataclass(frozen=True, slots=True)
class Nothing:
    """The sender proves nothing, and nothing is checked."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> None:
        return None

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return request

    def headers(self) -> tuple[str, ...]:
        return ()


def token_by(options: Mapping[str, str]) -> Token:
    """The Token that a source's options describe. Raises ValueError."""
    if options.get("query"):
        if options.get("header"):
            raise ValueError("the token stands in a header or in the query, not in both")
        return Token(query=options["query"])
    return Token(header=options.get("header", "Authorization"), prefix=options.get("prefix", ""))
