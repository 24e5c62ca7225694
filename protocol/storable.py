"""What PostgreSQL cannot hold, made holdable: no value a sender chose may fail its row, or its neighbours' rows."""

NAME_CHARACTERS_MAX = 200  # event types and delivery ids: longer ones are nobody's, and an index entry has 2,704 bytes
REASON_CHARACTERS_MAX = 500  # a line to read
TRACEBACK_CHARACTERS_MAX = 16 * 1024


def text(value: str, characters_max: int) -> str:
    """`value` without NUL and lone surrogates (each becomes U+FFFD), cut at `characters_max`."""
    value = value[:characters_max]
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def name(value: str | None) -> str | None:
    """A sender's name for something; null when there is none."""
    return text(value, NAME_CHARACTERS_MAX) if value else None


def header(value: bytes) -> str:
    """A header's bytes as ISO-8859-1: every byte is a character, and can be had back."""
    return value.decode("latin-1")
