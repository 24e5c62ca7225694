"""The bytes of requests in memory: bounded over all of them, and half kept for those with small bodies."""

from dataclasses import dataclass

from ingest import refusal

SMALL_BODY_BYTES = 64 * 1024  # half of the in-flight budget is kept for these
HEAD_FACTOR = 3  # a head is kept as bytes, as text, and as what is stored of it


@dataclass(slots=True)
class Budget:
    """The bytes of all requests that are being read or wait for their commit: bodies, and heads beyond the ordinary."""

    bytes_max: int
    used: int = 0
    used_by_large: int = 0

    def charge(self, body: "Charged", size: int) -> None:
        """Count `size` more bytes of a body. Raises Refusal when they do not fit."""
        self.used += size
        body.size += size
        if body.size > SMALL_BODY_BYTES:
            self.used_by_large += size if body.is_large else body.size
            body.is_large = True
            if self.used_by_large > self.bytes_max // 2:
                raise refusal.too_much_in_flight()
        if self.used > self.bytes_max:
            raise refusal.too_much_in_flight()

    def charge_head(self, body: "Charged", size: int) -> None:
        """Count a head of `size` bytes. Raises Refusal when it does not fit."""
        body.head = size * HEAD_FACTOR
        self.used += body.head
        if self.used > self.bytes_max:
            raise refusal.too_much_in_flight()

    def give_back(self, body: "Charged") -> None:
        self.used -= body.size + body.head
        if body.is_large:
            self.used_by_large -= body.size


@dataclass(slots=True)
class Charged:
    """What one body has been charged, and the head before it."""

    size: int = 0
    head: int = 0
    is_large: bool = False
