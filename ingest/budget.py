"""The bytes of bodies in memory: bounded over all requests, and half of them kept for small bodies."""

from dataclasses import dataclass

from ingest import refusal

SMALL_BODY_BYTES = 64 * 1024  # half of the in-flight budget is kept for these


@dataclass(slots=True)
class Budget:
    """The bytes of all bodies that are being read or wait for their commit."""

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

    def give_back(self, body: "Charged") -> None:
        self.used -= body.size
        if body.is_large:
            self.used_by_large -= body.size


@dataclass(slots=True)
class Charged:
    """What one body has been charged."""

    size: int = 0
    is_large: bool = False
