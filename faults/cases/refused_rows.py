"""PostgreSQL refuses single rows of the batches they are in."""

from faults.case import case
from faults.cases.work import at_work
from faults.scene import Scene
from rig.load import Load
from rig.postgres import connected
from rig.server import on


@case(
    "PostgreSQL refuses some rows of the batches they travel in",
    caught=("refuse-whole-batches", "forget-what-was-answered"),
)
async def refused_row_in_copy(scene: Scene) -> None:
    await on(
        scene.server,
        "ALTER TABLE hookd.events ADD CONSTRAINT unwanted CHECK (target NOT LIKE '%unwanted') NOT VALID",
    )
    async with at_work(scene, senders=16, pause_seconds=0, commit_timeout_seconds=10) as (load, receiver, _):
        unwanted = Load(load.url, senders=2, source="marked/unwanted", pause_seconds=0.02, timeout_seconds=20)
        async with unwanted.running():
            await load.more(500)
    assert set(unwanted.statuses) == {503}, f"the refused: {unwanted.statuses}"
    assert set(load.statuses) == {200}, f"their neighbours: {load.statuses}"
    assert [line for line in receiver.lines if line["event"] == "batch.refused" and line["rows"] > 1]
    scene.note("rows refused", unwanted.statuses[503])


@case(
    "PostgreSQL refuses to record how some events ended, in the batches they are settled in",
    caught=("condemn-whole-batches",),
    is_short=True,
)
async def refused_row_in_settle(scene: Scene) -> None:
    await on(
        scene.server,
        "CREATE FUNCTION hookd.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE check_violation USING MESSAGE = 'refused'; END $$",
    )
    async with connected(scene.url) as connection:
        await connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON hookd.events FOR EACH ROW "
            "WHEN (NEW.status = 'processed' AND NEW.target LIKE '%unrecordable') EXECUTE FUNCTION hookd.refuse()"
        )
    async with scene.ingest() as receiver:
        load = await scene.load(receiver)
        unrecordable = Load(load.url, senders=1, source="marked/unrecordable", pause_seconds=0.02)
        async with load.running(), unrecordable.running():
            await load.more(300)
            await unrecordable.more(3)
    await scene.settle_all()
    async with connected(scene.url) as connection:
        endings = await connection.fetch(
            "SELECT target LIKE '%unrecordable' AS refused, status, count(*), min(reason) AS reason "
            "FROM hookd.events GROUP BY 1, 2 ORDER BY 1"
        )
    assert [(row["refused"], row["status"]) for row in endings] == [(False, "processed"), (True, "failed")], endings
    assert endings[1]["count"] >= len(unrecordable.answered)
    assert endings[1]["reason"].startswith("could not be recorded: "), endings[1]["reason"]
    scene.note("could not be recorded", endings[1]["count"])
    scene.note("their neighbours processed", endings[0]["count"])


CASES = (refused_row_in_copy, refused_row_in_settle)
