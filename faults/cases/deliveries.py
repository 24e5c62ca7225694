"""Deliveries as GitHub sends them: signed, each of them more than once; and forged ones that bear their ids."""

import asyncio
import base64
import time
from collections.abc import Iterable
from typing import NamedTuple

from faults.scene import Scene
from faults.senders import crowd, head
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.signature import NO_OPTIONS
from rig.load import Load, body_of

SOURCE = "github"
SECRET = "correct horse battery staple"


class Sending(NamedTuple):
    """One of a delivery's sendings; by both numbers its body is known in the table."""

    delivery: int
    number: int
    is_forged: bool

    @property
    def delivery_id(self) -> str:
        return f"delivery-{self.delivery}"

    def wire(self) -> bytes:
        """The request's bytes, signed with the secret, or with another."""
        headers = [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", self.delivery_id)]
        request = Request("POST", f"/{SOURCE}", headers, body_of(self.delivery, self.number))
        secret = f"not {SECRET}" if self.is_forged else SECRET
        signed = PROVIDERS[SOURCE].scheme.sign(request, secret, time.time(), NO_OPTIONS)
        lines = [f"{name}: {value}".encode() for name, value in signed.headers]
        begin = head(*lines, b"Content-Length: %d" % len(signed.body), target=signed.target)
        return begin + b"\r\n" + signed.body


async def register(scene: Scene) -> str:
    """Register the source; the key that its secret is sealed with, which processors need."""
    key = base64.urlsafe_b64encode(scene.random.randbytes(32)).decode()
    secret = scene.folder / "github.secret"
    secret.write_text(SECRET)
    command = ("sources", "add", SOURCE, "--provider", SOURCE, "--secret-file", str(secret))
    async with scene.hookd(*command, secret_key=key) as adding:
        assert await adding.ended() == 0, "the source was not registered"
    return key


async def send(account: Load, sendings: Iterable[Sending], *, connections: int = 8) -> dict[str, Sending]:
    """Send them in this order, so many at once; what was sent for each id. All must be answered with 200."""
    waiting, sent = iter(sendings), dict[str, Sending]()
    async with crowd(account.url, connections) as senders, asyncio.TaskGroup() as table:

        async def work(place: int) -> None:
            for each in waiting:
                answer = await senders[place].ask(each.wire())
                assert answer.status == 200, f"a delivery was answered {answer}"
                sent[answer.id] = each
                account.keep(answer.id, (each.delivery, each.number))

        for place in range(connections):
            table.create_task(work(place))
    return sent
