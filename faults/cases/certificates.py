"""The receiver's certificate is replaced while senders speak TLS to it."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from chassis.certificate import made
from faults.case import case
from faults.cases.receivers import load_on, patient, url_of
from faults.scene import Scene
from rig.hookd import Hookd
from rig.load import SOURCE, Load

KEPT = ("tls.unchanged", "restart.refused")  # what is said of a certificate that cannot be used


class Files:
    """Certificate and key as a receiver finds them. `tls`: of a sender that trusts whatever was good at any time."""

    def __init__(self, scene: Scene) -> None:
        self._certificate, self._key = scene.folder / "cert.pem", scene.folder / "key.pem"
        self._count = 0
        self.settings = {"tls_cert": str(self._certificate), "tls_key": str(self._key)}
        self.tls = ssl.create_default_context()
        self.replace()

    def replace(self, *, broken: bool = False) -> None:
        """Others in their place; broken: the key alone."""
        self._count += 1
        issued = made([f"certificate-{self._count}", "127.0.0.1"], days=1)  # those of one name OpenSSL would mix up
        self._key.write_bytes(issued.key)
        if not broken:
            self._certificate.write_bytes(issued.certificate)
            self.good = issued.certificate.decode()
            self.tls.load_verify_locations(cadata=self.good)


@case(
    "A receiver's certificate is replaced under load (SIGHUP), five times, once by a broken one",
    caught=("take-any-certificate", "closed-while-reading"),
)
async def tls_certificate_changed_under_load(scene: Scene) -> None:
    files = Files(scene)
    async with patient(scene, **files.settings) as receiver:
        told = [("tls.loaded", 2), ("tls.loaded", 3), ("tls.unchanged", 1), ("tls.loaded", 4), ("tls.loaded", 5)]
        await replace_under_load(scene, receiver, files, told)
    await scene.settle_all()


@case(
    "The certificate of two workers is replaced under load (SIGHUP, one after the other), once by a broken one",
    caught=("leave-at-once",),
    seconds_max=90,
)
async def tls_workers_replaced_under_load(scene: Scene) -> None:
    files = Files(scene)
    async with patient(scene, "--workers", "2", **files.settings) as receiver:
        await receiver.logged("ingest.listening", 2)
        told = [("child.stopped", 2), ("restart.refused", 1), ("child.stopped", 4)]
        await replace_under_load(scene, receiver, files, told)
    await scene.settle_all()


async def replace_under_load(scene: Scene, receiver: Hookd, files: Files, told: list[tuple[str, int]]) -> None:
    """Replace it, with SIGHUP, until each of these was logged so often; it is the last good one that is shown."""
    async with senders(scene, await url_of(receiver), files.tls) as load:
        await require_shown(load, files.good)
        for event, count in told:
            files.replace(broken=event in KEPT)
            receiver.process.send_signal(signal.SIGHUP)
            await receiver.logged(event, count)
            await require_shown(load, files.good)
    assert await receiver.stop() == 0, "the receiver did not exit with 0"


@asynccontextmanager
async def senders(scene: Scene, url: str, tls: ssl.SSLContext) -> AsyncIterator[Load]:
    """Some keep their connections, others have a new one for each POST; none is cut, or answered but with 200."""
    kept, anew = (load_on(scene, url, source) for source in (SOURCE, "anew"))
    kept.tls, anew.tls, anew.keeps_alive = tls, tls, False
    async with kept.running(), anew.running():
        yield anew
    for load in (kept, anew):
        assert set(load.statuses) == {200}, f"POSTs were answered {dict(load.statuses)}"
        assert load.cut == 0, f"{load.cut} POSTs were cut or refused"


async def require_shown(load: Load, certificate: str) -> None:
    """This one (in PEM) is what a new connection is shown, and the load goes on."""
    parts = urlsplit(load.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=load.tls)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert shown == ssl.PEM_cert_to_DER_cert(certificate), "another certificate is shown"
    await load.more(50)


CASES = (tls_certificate_changed_under_load, tls_workers_replaced_under_load)
