"""The receiver is stopped, and restarted without a pause, under load."""

import signal

from faults.case import case
from faults.cases.receivers import load_on, patient, url_of
from faults.cases.uploads import uploading
from faults.scene import Scene
from faults.senders import nginx
from rig.hookd import Hookd
from rig.processes import free_port


@case(
    "SIGTERM to the receiver when it is idle, under load, in the middle of a slow upload, and twice",
    caught=("leave-at-once",),
)
async def receiver_terminated(scene: Scene) -> None:
    port = str(free_port())
    async with scene.ingest("--port", port) as receiver:
        assert await receiver.stop() == 0, "idle, it did not exit with 0"
    load = load_on(scene, f"http://127.0.0.1:{port}")
    async with load.running():
        for stop in (_by_its_load, _in_mid_upload, _in_a_hurry):
            async with scene.ingest("--port", port, grace_seconds="60") as receiver:
                await load.more(100)
                await stop(scene, receiver)
    scene.note("POSTs refused in between", load.cut)
    await scene.settle_all()


async def _by_its_load(_: Scene, receiver: Hookd) -> None:
    assert await receiver.stop() == 0, "under load, it did not exit with 0"


async def _in_mid_upload(scene: Scene, receiver: Hookd) -> None:
    async with uploading(scene, await url_of(receiver)) as uploads:
        receiver.process.send_signal(signal.SIGTERM)
        await receiver.logged("ingest.stopping")
        await uploads.end()
        assert await receiver.ended() == 0, "after an upload, it did not exit with 0"


async def _in_a_hurry(scene: Scene, receiver: Hookd) -> None:
    async with uploading(scene, await url_of(receiver)):
        receiver.process.send_signal(signal.SIGTERM)
        await receiver.logged("ingest.stopping")
        receiver.process.send_signal(signal.SIGTERM)
        assert await receiver.ended() == 0, "told twice, it did not exit with 0"


@case(
    "five rolling restarts (SIGHUP) of two workers under load: every POST must be answered with 200",
    caught=("leave-at-once",),
    seconds_max=120,
)
async def rolling_restarts_direct(scene: Scene) -> None:
    async with patient(scene, "--workers", "2") as receiver:
        await _restart_five_times(scene, receiver, await url_of(receiver))
    await scene.settle_all()


@case(
    "five rolling restarts (SIGHUP) of two workers under load through nginx: none is lost, or sent twice",
    caught=("leave-at-once",),
    seconds_max=120,
)
async def rolling_restarts_through_nginx(scene: Scene) -> None:
    folder = scene.folder / "nginx"
    folder.mkdir()
    async with (
        patient(scene, "--workers", "2", trusted_proxies="127.0.0.1") as receiver,
        nginx(folder, await url_of(receiver)) as url,
    ):
        await _restart_five_times(scene, receiver, url)
        again = (folder / "hookd.log").read_text().count('"upstream_status":"502')
        assert again == 0, f"nginx had to send {again} POSTs a second time"
    await scene.settle_all()


async def _restart_five_times(scene: Scene, receiver: Hookd, url: str) -> None:
    load = load_on(scene, url)
    async with load.running():
        for restart in range(1, 6):
            await load.more(100)
            receiver.process.send_signal(signal.SIGHUP)
            await receiver.logged("child.stopped", 2 * restart)
        await load.more(100)
    assert set(load.statuses) == {200}, f"POSTs were answered {dict(load.statuses)}"
    assert load.cut == 0, f"{load.cut} POSTs were cut or refused"
    assert await receiver.stop() == 0, "the supervisor did not exit with 0"


CASES = (receiver_terminated, rolling_restarts_direct, rolling_restarts_through_nginx)
