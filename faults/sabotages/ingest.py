"""The receiver, broken on purpose."""

from collections.abc import Sequence
from typing import Any

from uuid_utils import uuid7

from faults.sabotage import sabotage
from ingest.batch import Lane
from ingest.receiver import Receiver
from ingest.store import Writer


@sabotage
def answer_before_commit() -> None:
    """A webhook is answered when it is queued, not when it is committed."""

    async def save(self: Receiver, row: Any, size: int) -> None:
        (self.large if size > 1024 * 1024 else self.small).put(row, size).add_done_callback(
            lambda done: done.exception()
        )

    Receiver.save = save  # type: ignore[method-assign]


@sabotage
def forget_what_was_answered() -> None:
    """A batch whose write failed is answered as if it had been written."""

    def accept(self: Lane, batch: Any, why: str) -> None:
        self._accept(batch)

    Lane._refuse = accept  # type: ignore[assignment, method-assign]


@sabotage
def new_ids_when_tried_again() -> None:
    """A batch whose outcome is unknown is sent again with new ids, as if it were new."""
    write = Writer.write

    async def write_anew(self: Writer, rows: Sequence[Any], timeout: float) -> None:
        await write(self, [(uuid7(), *row[1:]) for row in rows], timeout)

    Writer.write = write_anew  # type: ignore[method-assign]


@sabotage
def tidy_bodies() -> None:
    """A body is stored as text would be: what is not UTF-8 is replaced."""
    row_of = Receiver.row_of

    def tidied(self: Receiver, request: Any, source: str, body: Any, arrived: int) -> Any:
        return row_of(self, request, source, bytes(body).decode(errors="replace").encode(), arrived)

    Receiver.row_of = tidied  # type: ignore[method-assign]
