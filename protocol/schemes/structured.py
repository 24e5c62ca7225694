"""Structured fields (RFC 8941), as far as message signatures need them. Each is read in linear time, or refused."""

import base64
import re

from protocol.verdict import UnverifiedError

STRING = r'"(?:[^"\\\x00-\x1f\x7f-\xff]|\\["\\])*"'
WORD = r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
PARAMETER = rf";[a-z*][a-z0-9_.*-]*(?:=(?:{STRING}|-?[0-9]{{1,15}}|\?[01]|:[A-Za-z0-9+/=]*:|{WORD}))?"
ITEM = rf"{STRING}(?:{PARAMETER})*"
MEMBER_INPUT = re.compile(rf"([a-z*][a-z0-9_.*-]*)=(\(((?: *{ITEM}(?: +{ITEM})*)?) *\)((?:{PARAMETER})*))")
MEMBER_BYTES = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):")
BETWEEN = re.compile(r"[ \t]*,[ \t]*")


def byte_values(text: str, name: str) -> dict[str, bytes]:
    try:
        return {match[1]: base64.b64decode(match[2], validate=True) for match in members(text, MEMBER_BYTES, name)}
    except ValueError:
        raise UnverifiedError("format", f"{name} is not base64 between colons") from None


def members(text: str, member: re.Pattern[str], name: str) -> list[re.Match[str]]:
    """The members of a dictionary, each in this form. Raises UnverifiedError."""
    found, place = [], 0
    while match := member.match(text, place):
        found.append(match)
        if match.end() == len(text):
            return found
        comma = BETWEEN.match(text, match.end())
        if comma is None:
            break
        place = comma.end()
    raise UnverifiedError("format", f"{name} cannot be read")


def parameters_of(text: str) -> dict[str, str]:
    """Parameters by name; a string keeps its quotes."""
    pairs = (part[1:].partition("=") for part in re.findall(PARAMETER, text))
    return {name: value for name, _, value in pairs}
