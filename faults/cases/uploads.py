"""Uploads that are begun now, and ended when told."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from faults.cases.receivers import load_on
from faults.scene import Scene
from faults.senders import Sender, crowd, head
from rig.load import body_of

UPLOAD = 20  # the number of the first body of several: from here on each is more than 600 bytes


class Uploads:
    """Bodies that come slowly: all of them begun, and ended when told. What is answered with 200 must be stored."""

    def __init__(self, scene: Scene, url: str, senders: Sequence[Sender]) -> None:
        self._load = load_on(scene, url, source="crowd")
        self._numbered = [(each, (len(scene.loads), UPLOAD + place)) for place, each in enumerate(senders)]

    async def begin(self) -> None:
        for sender, number in self._numbered:
            body = body_of(*number)
            invited = await sender.ask(head(b"Content-Length: %d" % len(body), b"Expect: 100-continue") + b"\r\n")
            assert invited.status == 100, f"an upload was answered {invited}"
            await sender.send(body[:100])

    async def end(self) -> None:
        for sender, number in self._numbered:
            answer = await sender.ask(body_of(*number)[100:])
            assert answer.status == 200, f"an upload that was begun in time was answered {answer}"
            self._load.keep(answer.id, number)


@asynccontextmanager
async def uploading(scene: Scene, url: str, count: int = 8) -> AsyncIterator[Uploads]:
    """So many uploads, all begun: the receiver has read their heads."""
    async with crowd(url, count) as senders:
        uploads = Uploads(scene, url, senders)
        await uploads.begin()
        yield uploads
