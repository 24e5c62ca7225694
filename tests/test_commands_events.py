"""`hookd events` and `hookd event`: what they find, and how they print it for people and for programs."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from click import ClickException
from click.testing import CliRunner

from chassis.database import Connection, Database, Unavailable
from hookd import cli
from hookd.commands.event import find
from hookd.options import Prefix, ago, ids_of, moment
from hookd.store import Store, Wanted
from tests.commands import Hookd
from tests.factories import an_attempt, an_event, at, events

HOSTILE = "[red]\x1b[2J\x9b31m\u202e\nforged"


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "test")
    yield store
    await store.close()


# --- events ---------------------------------------------------------------------------------------------------------


async def test_events_lists_the_newest_first(hookd: Hookd, connection: Connection) -> None:
    """`hookd events` lists what was received last on top, at most --limit."""
    ids = [await an_event(connection, received=f"{hours} hours ago") for hours in (30, 20, 10)]
    assert [line.split()[0] for line in hookd("events", "--limit", "2").lines[1:]] == [str(ids[2]), str(ids[1])]


async def test_events_narrows(hookd: Hookd, store: Store, connection: Connection) -> None:
    """--status, --source and --type each leave out what does not match; new is waiting, retrying, running or parked."""
    ids = {
        "waiting": await an_event(connection, source="github", event_type="push"),
        "retrying": await an_event(connection, attempts=2, due="5 minutes", reason="Retry: later"),
        "running": await an_event(connection, attempts=1, held_by="host 1", due="30 seconds"),
        "parked": await an_event(connection, due="infinity"),
        "processed": await an_event(connection, status="processed", source="github"),
        "failed": await an_event(connection, status="failed", event_type="push"),
    }
    for state, event_id in ids.items():
        assert [(row["id"], row["state"]) for row in await store.events(Wanted(state), 10)] == [(event_id, state)]
    assert len(await store.events(Wanted("new"), 10)) == 4
    [only] = hookd("events", "--json", "--status", "new", "--source", "github", "--type", "push").json
    assert (only["id"], only["state"], only["status"]) == (str(ids["waiting"]), "waiting", "new")


async def test_since_reads_only_the_days_it_needs(hookd: Hookd, connection: Connection) -> None:
    """--since works while somebody holds an older day locked."""
    recent = await an_event(connection, received="1 minute ago")
    older = await an_event(connection, received="10 days ago")
    day = (await at(connection, "10 days ago")).astimezone(UTC)
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE hookd.events_{day:%Y%m%d} IN ACCESS EXCLUSIVE MODE")
        for since in ("1h", (day + timedelta(days=5)).isoformat()):
            assert [each["id"] for each in hookd("events", "--since", since, "--json").json] == [str(recent)]
    assert str(older) in hookd("events", "--since", "11d").out


def test_a_time_is_ago_or_absolute() -> None:
    """30m, 1h and 2d count back from now; a time without a zone is UTC."""
    assert (ago("30m"), ago("1h"), ago("2d")) == (timedelta(minutes=30), timedelta(hours=1), timedelta(days=2))
    assert ago("999999999w") == timedelta(days=36_500)
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T12:00") == moment("2026-01-31T13:00+01:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("time", ["yesterday", "1y", "-1h", "9999-12-31T23:59-14:00", "²h"])
def test_a_time_that_is_none_is_wrong_usage(time: str) -> None:
    """What is no time exits with 2 and says what would be one."""
    done = CliRunner().invoke(cli.hookd, ["events", f"--since={time}"])
    assert done.exit_code == 2
    assert "expected 30m, 1h, 2d, or a time such as 2026-01-31T12:00Z" in done.output


async def test_times_long_gone_and_far_ahead(store: Store, connection: Connection) -> None:
    """--since takes any time: before the epoch it means all, in the future none."""
    await an_event(connection)
    for time, count in ((moment("1900-01-01"), 1), (ago("99999w"), 1), (moment("9999-12-31"), 0)):
        assert len(await store.events(Wanted(least=await store.least_id(time)), 10)) == count


@pytest.mark.any_server
async def test_events_as_json_is_an_object_a_line(hookd: Hookd, connection: Connection) -> None:
    """With --json each line has every column but headers and body, times in UTC; control characters are escaped."""
    received = await at(connection, "1 hour ago")
    event_id = await an_event(
        connection, received=received, event_type=HOSTILE, delivery_id="d1", attempts=1, due="infinity"
    )
    done = hookd("events", "--json")
    assert done.out.removesuffix("\n").isprintable()
    assert done.json == [
        {
            "id": str(event_id),
            "status": "new",
            "state": "parked",
            "source": "demo",
            "event_type": HOSTILE,
            "delivery_id": "d1",
            "received_at": received.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "finished_at": None,
            "due_at": "infinity",
            "held_by": None,
            "attempts": 1,
            "claims": 0,
            "reason": None,
            "verdict": None,
            "method": "POST",
            "target": "/demo",
            "remote": "127.0.0.1",
        }
    ]


@pytest.mark.any_server
async def test_events_on_a_terminal(hookd: Hookd, connection: Connection) -> None:
    """A terminal gets a table with ages and times to come, cut to its width, ids whole."""
    ids = [
        await an_event(
            connection, source="demo", received="3 hours ago", attempts=2, due="5 minutes", reason="r" * 400
        ),
        await an_event(connection, received="5 minutes ago", attempts=1, held_by="host 1", due="1 minute ago"),
    ]
    shown = re.sub(r"\x1b\[[0-9;]*m", "", hookd.on_terminal("events", width=140).out)
    [head, running, retrying] = shown.splitlines()
    assert head.split() == ["id", "received", "source", "type", "status", "attempts", "reason"]
    assert running.split("  ")[0] == str(ids[1])
    assert "running (lease ended)" in running
    assert "5 min ago" in running
    assert all(words in retrying for words in (str(ids[0]), "3 h ago", "retrying in 5 min", "rrr…"))
    assert max(map(len, shown.splitlines())) <= 140
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", hookd.on_terminal("events", width=80).out).splitlines()
    assert [line.split()[0] for line in narrow[1:]] == [str(ids[1])[:18], str(ids[0])[:18]]
    assert "running (lease ended)" in narrow[1]
    assert max(map(len, narrow)) <= 80


@pytest.mark.any_server
async def test_nothing_a_sender_chose_reaches_a_terminal_as_it_is(hookd: Hookd, connection: Connection) -> None:
    """Markup shows as it stands, control characters as what they are, and no line is forged."""
    event_id = await an_event(
        connection,
        source="demo",
        status="failed",
        event_type=HOSTILE,
        delivery_id=HOSTILE,
        target=HOSTILE,
        reason=HOSTILE,
        headers=[[HOSTILE, HOSTILE]],
        payload=HOSTILE.encode(),
    )
    await an_attempt(connection, event_id, error=HOSTILE, traceback=HOSTILE)
    for arguments in (["events"], ["event", str(event_id)], ["status"], ["replay", str(event_id), "--dry-run"]):
        shown = hookd.on_terminal(*arguments, width=400).out
        coloured = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
        assert r"[red]\x1b[2J\x9b31m\u202e" in coloured
        assert coloured.replace("\n", "").isprintable()
    assert r"\u202e\nforged" in hookd("events").out


@pytest.mark.any_server
async def test_a_pipe_gets_plain_columns(hookd: Hookd, connection: Connection) -> None:
    """Into a pipe nothing is coloured or cut to a width: a long reason is there up to 300 characters."""
    await an_event(connection, status="failed", reason="r" * 301)
    [_, line] = hookd.having(COLUMNS="20")("events").lines
    assert line.endswith(" " + "r" * 300 + "…")


async def test_no_event_is_no_error(hookd: Hookd) -> None:
    """An empty list exits with 0, prints no row and says so beside."""
    assert (hookd("events").code, hookd("events").out, hookd("events").err) == (0, "", "no event yet\n")
    assert hookd("events", "--source", "x").err == "no such event\n"
    assert hookd("events", "--json").out == ""


async def test_each_role_may_do_its_part(database_url: str, connection: Connection) -> None:
    """hookd_reader may look at everything, hookd_processor may replay, hookd_receiver may neither."""
    event_id = await an_event(connection, status="failed")
    roles = ("reader", "processor", "receiver")
    stores = {role: Store(Database(f"{database_url}&role=hookd_{role}"), role) for role in roles}
    for name in ("reader", "processor"):
        assert [row["id"] for row in (await stores[name].standing()).failures] == [event_id]
        assert (await stores[name].event(event_id, 10))["body"] == b"{}"
        assert await stores[name].attempts(event_id) == []
        assert [row["id"] for row in await stores[name].events(Wanted(), 10)] == [event_id]
    for name in ("reader", "receiver"):
        with pytest.raises(Unavailable, match="permission denied for table"):
            await stores[name].reset([event_id], await stores[name].now())
    assert await stores["processor"].reset([event_id], await stores["processor"].now()) == {event_id}
    for store in stores.values():
        await store.close()


# --- event ----------------------------------------------------------------------------------------------------------


async def test_event_shows_all_of_it(hookd: Hookd, connection: Connection) -> None:
    """`hookd event` shows every column, the headers in their order, the body and each attempt with its traceback."""
    event_id = await an_event(
        connection,
        status="failed",
        reason="gave up after 2 attempts: RuntimeError: broken",
        attempts=2,
        headers=[["X-A", "1"], ["x-a", "2"]],
        payload='{"greeting":\n"grüß"}'.encode(),
    )
    await an_attempt(connection, event_id, claim=1, attempt=1)
    await an_attempt(connection, event_id, claim=2, attempt=2, error=None, traceback=None)
    done = hookd("event", str(event_id))
    assert done.code == 0
    facts = dict(line.split(maxsplit=1) for line in done.out.partition("\n\n")[0].splitlines())
    assert (facts["status"], facts["attempts"], facts["held_by"]) == ("failed", "2", "-")
    assert facts.keys() == {
        *("id", "status", "source", "event_type", "delivery_id", "received_at", "finished_at", "due_at", "held_by"),
        *("attempts", "claims", "reason", "verdict", "method", "target", "remote"),
    }
    assert "\nheaders\n  X-A: 1\n  x-a: 2\n" in done.out
    assert '\nbody, 22 bytes\n  {"greeting":\n  "grüß"}\n' in done.out
    assert ": RuntimeError: broken\n  Traceback (most recent call last):\n  RuntimeError: broken\n" in done.out
    assert done.lines[-1].startswith("attempt 2, ")
    assert done.lines[-1].endswith(": went well")


async def test_an_id_may_be_cut_short(hookd: Hookd, store: Store, connection: Connection) -> None:
    """The beginning of an id will do, in any writing, while it is the beginning of one only."""
    day = await at(connection, "1 day ago")
    head = int(day.timestamp() * 1000) << 80
    one, other = [await an_event(connection, id=UUID(int=head | n << 72), received=day) for n in (0xAB, 0xAC)]
    for writing in (str(one), str(one).upper(), one.hex, one.hex[:14], str(one)[:16]):
        assert await find(store, Prefix().convert(writing, None, None)) == one
    ambiguous = hookd("event", one.hex[:13])
    assert (ambiguous.code, ambiguous.out) == (1, "")
    assert ambiguous.err == f"Error: {one.hex[:13]} is the beginning of several ids:\n  {one}\n  {other}\n"
    await events(connection, 4, received=day)
    with pytest.raises(ClickException, match=r"(\n  [0-9a-f-]{36}){5}\n  …$"):
        await find(store, one.hex[:8])
    missing = hookd("event", "fff0")
    assert (missing.code, missing.err) == (1, "Error: no event fff0\n")


@pytest.mark.parametrize("event_id", ["01a", "xyzw", "0" * 33])
def test_an_id_that_is_none_is_wrong_usage(event_id: str) -> None:
    """What cannot be the beginning of an id exits with 2."""
    done = CliRunner().invoke(cli.hookd, ["event", event_id])
    assert done.exit_code == 2
    assert "at least its first 4 hex digits" in done.output


def test_a_prefix_spans_its_ids() -> None:
    """A prefix stands for the ids from its zeros to its Fs."""
    assert ids_of("0abc") == (UUID("0abc" + "0" * 28), UUID("0abc" + "f" * 28))


@pytest.mark.any_server
async def test_raw_is_the_exact_body(hookd: Hookd, connection: Connection) -> None:
    """--raw writes the body's bytes, all of them and no other."""
    body = bytes(range(256)) * 40_000
    event_id = await an_event(connection, payload=body)
    file = hookd.folder / "body"
    assert hookd("event", str(event_id), "--raw", into=file).code == 0
    assert file.read_bytes() == body


@pytest.mark.any_server
async def test_event_as_json(hookd: Hookd, connection: Connection) -> None:
    """--json has headers as pairs, the body as text where it is UTF-8, else in base64, and the attempts."""
    text = await an_event(connection, payload="grüß\x00".encode(), headers=[["A", "1"], ["A", "\xff"]])
    await an_attempt(connection, text)
    octets = await an_event(connection, payload=b"\xff\x00")
    [shown] = hookd("event", str(text), "--json").json
    assert (shown["headers"], shown["body"]) == ([["A", "1"], ["A", "ÿ"]], "grüß\x00")
    history = shown["history"]
    assert isinstance(history, list)
    assert (history[0]["attempt"], history[0]["error"]) == (1, "RuntimeError: broken")
    [shown] = hookd("event", str(octets), "--json").json
    assert shown["body_base64"] == "/wA="
    assert "body" not in shown
    assert hookd("event", str(octets), "--json", "--raw").code == 2


@pytest.mark.any_server
async def test_a_body_that_is_no_text_is_shown_in_hex(hookd: Hookd, connection: Connection) -> None:
    """Bytes that are no UTF-8 are shown as hex, the first 256 of them."""
    event_id = await an_event(connection, payload=b"GIF89a\xff" + bytes(300))
    done = hookd("event", str(event_id)).out
    assert "body, 307 bytes\n  0000  47 49 46 38 39 61 ff 00 00 00 00 00 00 00 00 00  GIF89a" in done
    assert "\n  00f0  " in done
    assert "\n  0100  " not in done
    assert done.endswith("… (all of it: --raw)\n")


@pytest.mark.any_server
async def test_a_long_body_is_cut_between_characters(hookd: Hookd, connection: Connection) -> None:
    """Of a long body its first 4096 bytes are shown, without a torn character; of an empty one that it is empty."""
    event_id = await an_event(connection, payload=b"x" + "é".encode() * 4000)
    assert hookd("event", str(event_id)).lines[-2:] == ["  x" + "é" * 2047, "  … (all of it: --raw)"]
    empty = await an_event(connection, payload=b"")
    assert hookd("event", str(empty)).lines[-1] == "body, 0 bytes, none"
