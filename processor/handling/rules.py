"""`/example/<name>/<int:number>/`: paths with variables. The one door of werkzeug's router.

werkzeug is imported when the first rule is declared: its package takes a tenth of a second.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from protocol.request import SOURCE, TARGETS_MAX, path_of

if TYPE_CHECKING:
    from werkzeug.routing.rules import RulePart

    from processor.handling.handler import Handler

ANY = "*"
VARIABLE = re.compile(r"<(?:([^<>]+):)?([^<>:]+)>")
USUAL = ("default", "string")  # the converters of a variable that names none
SLASHES = re.compile("//+")
PATH_CHARACTERS_MAX = 4096  # a path of 64 kB would keep a rule with several <path:…> at it for seconds


class RuleError(ValueError):
    """A rule that is none, or that no request can match."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A path with variables. `source`: its first segment, or `*` where that is variable."""

    text: str
    methods: frozenset[str]
    source: str
    variables: tuple[str, ...]
    # Two rules that differ in their variables' names alone match the same paths.
    shape: str = field(repr=False)
    parts: "Sequence[RulePart]" = field(repr=False, compare=False)  # its segments, as werkzeug weighs them

    @property
    def prefixes(self) -> list[tuple[str, ...]]:
        """Its first segment, its first two, …, all of it."""
        contents = tuple(part.content for part in self.parts)
        return [contents[:length] for length in range(1, len(contents) + 1)]

    @classmethod
    def of(cls, text: str, methods: Iterable[str]) -> "Rule":
        """Raises RuleError."""
        if not isinstance(text, str) or not text.startswith("/"):
            raise RuleError(f"the rule {text!r} must begin with a slash")
        stripped = text.rstrip("/") or text
        first = stripped[1:].split("/", 1)[0]
        source = ANY if "<" in first else first
        variables = tuple(name for _, name in VARIABLE.findall(stripped))
        if len(set(variables)) < len(variables):
            raise RuleError(f"the rule {text!r} names a variable twice")
        parts = _parts_of(stripped)
        if "?" in VARIABLE.sub("", stripped):
            raise RuleError(f"the rule {text!r} is more than a path: the query is asked for by where=")
        if source != ANY and not SOURCE.fullmatch(source):
            raise RuleError(
                f"the rule {text!r} begins with {first!r}, which is no source's name (small letters, digits, and . _ - "
                "within; 64 at most): no request would ever match it"
            )
        return cls(stripped, frozenset(methods), source, variables, VARIABLE.sub(_unnamed, stripped), parts)


def _unnamed(variable: re.Match[str]) -> str:
    converter = variable[1] or ""
    return f"<{'' if converter in USUAL else converter}>"


class Match(NamedTuple):
    """A handler whose rule matches, and the values of its variables."""

    handler: "Handler"
    variables: Mapping[str, Any]


class Rules:
    """The rules of an app."""

    def __init__(self, handlers: Iterable["Handler"]) -> None:
        self._handlers = [each for each in handlers if each.rule is not None]
        self._sources = {each.source for each in self._handlers}
        methods = {method for each in self._handlers if each.rule for method in each.rule.methods}
        self._routes = {method: _Routes(method, self._handlers) for method in methods}
        self._behind: dict[tuple[Handler, ...], Rules] = {}
        self._remembered = lru_cache(TARGETS_MAX)(self._match)

    def precedence(self, rule: Rule) -> list[Any]:
        """Smaller is asked first, as werkzeug does: segment by segment what is fixed, weighs less, came first."""
        rules = [each.rule for each in self._handlers if each.rule]
        order = list(dict.fromkeys(prefix for each in rules for prefix in each.prefixes))
        return [
            (not part.static, None if part.static else part.weight, order.index(prefix))
            for part, prefix in zip(rule.parts, rule.prefixes, strict=True)
        ]

    def match(self, source: str, method: str, target: str) -> Sequence[Match]:
        """Those that take it, the most specific first; of the same rule those with a filter, then who came first.

        What comes after one without a filter is not told.
        """
        if not (source in self._sources or ANY in self._sources):
            return ()
        path = path_of(target)
        return self._remembered(source, method, path) if len(path) <= PATH_CHARACTERS_MAX else ()

    def _match(self, source: str, method: str, path: str) -> Sequence[Match]:
        for each in paths_from(source, path):
            if found := self._matches(method, each):
                return found
        return ()

    def _matches(self, method: str, path: str) -> Sequence[Match]:
        """Those of the most specific rule; where all of them have filters, those of other rules behind them."""
        routes = self._routes.get(method)
        handlers, values = routes.find(path) if routes is not None else ((), ())
        # Rules of one shape have their variables in the same order, whatever each calls them.
        found = [Match(each, dict(zip(each.rule.variables, values, strict=True))) for each in handlers if each.rule]
        if not handlers or handlers[-1].where is None:
            return found
        if handlers not in self._behind:
            self._behind[handlers] = Rules(each for each in self._handlers if each not in handlers)
        return [*found, *self._behind[handlers]._matches(method, path)]


class _Routes:
    """The rules of a method; those without variables, as most are, are looked up, the others are werkzeug's."""

    def __init__(self, method: str, handlers: Iterable["Handler"]) -> None:
        by_shape: dict[str, list[Handler]] = defaultdict(list)
        for handler in sorted(handlers, key=lambda each: each.where is None):
            if handler.rule is not None and method in handler.rule.methods:
                by_shape[handler.rule.shape].append(handler)
        self._fixed = {shape: tuple(found) for shape, found in by_shape.items() if "<" not in shape}
        self._adapter = _adapter(tuple(found) for shape, found in by_shape.items() if "<" in shape)

    def find(self, path: str) -> tuple[tuple["Handler", ...], Iterable[Any]]:
        """Those of the most specific rule, and the values of its variables in their order."""
        fixed = self._fixed.get(path.rstrip("/"))
        if fixed is not None or self._adapter is None:
            return fixed or (), ()
        from werkzeug.exceptions import HTTPException  # noqa: PLC0415 - it is there already

        try:
            handlers, variables = self._adapter.match(path)
        except (HTTPException, ValueError):  # ValueError: more digits than Python makes a number of
            return (), ()
        return handlers, variables.values()


def paths_from(source: str, path: str) -> Iterator[str]:
    """The path from the source on, decoded; what is before it is the receiver's prefix, which may be named alike.

    Slashes in a row, and at the end, count for nothing, where nobody asks for them.
    """
    segments = path.split("/")
    starts = [place for place, segment in enumerate(segments) if segment == source]
    for start in starts[:2] or [1]:
        found = "/" + unquote("/".join(segments[start:]))
        yield found
        tidy = SLASHES.sub("/", found).rstrip("/")
        if tidy != found:
            yield tidy


def _adapter(groups: Iterable[tuple["Handler", ...]]) -> Any:
    from werkzeug.routing import Map  # noqa: PLC0415 - see above
    from werkzeug.routing import Rule as WerkzeugRule  # noqa: PLC0415

    rules = [WerkzeugRule(group[0].rule.text, endpoint=tuple(group)) for group in groups if group[0].rule is not None]
    return Map(rules, strict_slashes=False, merge_slashes=False, redirect_defaults=False).bind("") if rules else None


def _parts_of(text: str) -> "Sequence[RulePart]":
    """A rule's segments. Raises RuleError for what werkzeug makes no rule of."""
    from werkzeug.routing import Map  # noqa: PLC0415 - see above
    from werkzeug.routing import Rule as WerkzeugRule  # noqa: PLC0415

    try:
        compiled = WerkzeugRule(text, endpoint=None)
        Map([compiled])
    except Exception as error:  # noqa: BLE001 - a converter's arguments are the author's own words
        raise RuleError(f"the rule {text!r}: {error}") from None
    return compiled._parts
