"""Why a request is turned away. Each refusal carries its answer."""

from collections.abc import Mapping

from protocol.source import verdict_text
from protocol.verdict import Refused


class Refusal(Exception):
    """An answer other than 200. `slug` is its name in logs and metrics."""

    def __init__(self, status: int, slug: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.slug = slug
        self.message = message
        self.headers = headers or {}


REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

RETRY_AFTER = {"Retry-After": "5"}


def malformed(why: str) -> Refusal:
    return Refusal(400, "malformed", f"not a request hookd can read: {why}")


def no_source(prefix: str) -> Refusal:
    return Refusal(
        400,
        "no_source",
        f"POST to {prefix}/<source>; a source is [a-z0-9][a-z0-9._-]{{0,63}}, for example {prefix}/github",
    )


def unknown_source(source: str) -> Refusal:
    return Refusal(404, "unknown_source", f"no source {source!r} is registered here")


def faulty(source: str) -> Refusal:
    why = f"source {source!r} cannot be verified: nothing was stored; hookd's log says what is wrong with it"
    return Refusal(503, "faulty_source", why, RETRY_AFTER)


def unverified(verdict: Refused) -> Refusal:
    return Refusal(401, "unverified", f"not verified: {verdict_text(verdict)}")


def method_not_allowed(allowed: str) -> Refusal:
    return Refusal(405, "method", f"only {allowed} is taken here", {"Allow": allowed})


def head_too_slow(seconds: float) -> Refusal:
    return Refusal(408, "head_timeout", f"the request's head was not complete within {seconds:g} s")


def no_tls() -> Refusal:
    return Refusal(400, "no_tls", "TLS is spoken here: write https:// instead of http://")


def tls_failed(why: str) -> Refusal:
    return Refusal(400, "tls_failed", f"TLS was not agreed on: {why}")


def tls_too_slow(seconds: float) -> Refusal:
    return Refusal(408, "tls_timeout", f"TLS was not agreed on within {seconds:g} s")


def body_too_slow(seconds: float) -> Refusal:
    return Refusal(408, "body_timeout", f"the body stood still for {seconds:g} s, or came slower than 64 KiB/s")


def aborted() -> Refusal:
    return Refusal(400, "aborted", "the sender left before its body was complete")


def body_too_large(bytes_max: int) -> Refusal:
    return Refusal(413, "body_size", f"the body is larger than {bytes_max} bytes")


def head_too_large(bytes_max: int) -> Refusal:
    return Refusal(431, "head_size", f"the request's head is larger than {bytes_max} bytes")


def too_many_headers(headers_max: int) -> Refusal:
    return Refusal(431, "head_size", f"the request has more than {headers_max} headers")


def expectation() -> Refusal:
    return Refusal(417, "expectation", "the only expectation met here is 100-continue")


def not_stored(why: str) -> Refusal:
    return Refusal(503, "not_stored", f"not known to be stored: {why}", RETRY_AFTER)


def too_much_in_flight() -> Refusal:
    return Refusal(503, "inflight", "too many bytes are in flight, nothing was stored", RETRY_AFTER)


def too_many_connections() -> Refusal:
    return Refusal(503, "connections", "too many connections, nothing was stored", RETRY_AFTER)


def our_fault() -> Refusal:
    return Refusal(500, "internal", "an error of hookd's own; it is in the log")
