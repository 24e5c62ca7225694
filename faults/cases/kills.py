"""The receiver is killed with -9: a worker of it, its supervisor, or everything at one moment."""

from faults.case import case
from faults.cases.receivers import load_on, url_of
from faults.cases.uploads import uploading
from faults.scene import Scene, kill, workers_of
from rig.processes import free_port


@case(
    "one of two receiver workers is killed with -9 under load, three times",
    caught=("answer-before-commit",),
    is_short=True,
)
async def worker_killed(scene: Scene) -> None:
    async with scene.ingest("--workers", "2") as receiver:
        await receiver.logged("ingest.listening", 2)
        url = await url_of(receiver)
        for number in range(3):
            load = load_on(scene, url, source=f"load-{number}", pause_seconds=0)
            async with load.running():
                await load.more(200)
                kill(workers_of(receiver)[0])
                await load.more(50)  # the other one serves meanwhile
            await receiver.logged("ingest.listening", 3 + number)
        async with load_on(scene, url, source="load-after").running() as load:
            await load.more(200)
        assert await receiver.stop() == 0, "the supervisor did not exit with 0"
    scene.note("POSTs cut", sum(load.cut for load in scene.loads))
    await scene.settle_all()


@case(
    "the receiver's supervisor is killed with -9 under load; its workers end, and a new one takes the port",
    caught=("outlive-the-supervisor",),
)
async def supervisor_killed(scene: Scene) -> None:
    command = ("--port", str(free_port()), "--workers", "2")
    async with scene.ingest(*command) as first:
        await first.logged("ingest.listening", 2)
        load = load_on(scene, await url_of(first))
        async with load.running(), uploading(scene, await url_of(first)) as uploads:
            await load.more(200)
            first.kill()
            try:
                await first.logged("ingest.stopping")
                await uploads.end()
                await first.ended()
            finally:
                for pid in workers_of(first):
                    kill(pid)
            async with scene.ingest(*command) as second:
                await load.more(200)
                assert await second.stop() == 0, "the supervisor did not exit with 0"
    scene.note("POSTs cut or refused in between", load.cut)
    await scene.settle_all()


@case(
    "supervisor, workers, processor and PostgreSQL are killed with -9 at one moment under load, twice",
    caught=("answer-before-commit", "process-without-handling"),
    twice="a process was killed",
    seconds_max=120,
)
async def everything_killed(scene: Scene) -> None:
    command = ("--port", str(free_port()), "--workers", "2")
    load = load_on(scene, f"http://127.0.0.1:{command[1]}", pause_seconds=0)
    async with load.running():
        for _ in range(2):
            async with scene.ingest(*command) as receiver, scene.processor(lease_seconds="3") as processor:
                await receiver.logged("ingest.listening", 2)
                await load.more(300)
                victims = [receiver.process.pid, processor.process.pid, scene.server.pid, *workers_of(receiver)]
                scene.random.shuffle(victims)
                for pid in victims:
                    kill(pid)
                scene.server.kill()
            await scene.server.start()
            await scene.excuse_held()
        async with scene.ingest(*command) as receiver:
            await load.more(300)
            assert await receiver.stop() == 0, "the supervisor did not exit with 0"
    await scene.settle_all()


CASES = (worker_killed, supervisor_killed, everything_killed)
