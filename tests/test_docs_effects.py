"""What docs/effects.md shows is true: its tables, its handlers, its settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chassis.database import Connection
from processor.settings import ProcessorSettings
from tests.born import hookd
from tests.factories import an_event, row_of

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

DOCUMENT = (Path(__file__).parent.parent / "docs" / "effects.md").read_text()
PAYMENTS = "SELECT event_id, customer, cents FROM payments ORDER BY cents DESC"


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def test_its_handlers_run(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Its handlers, in one app, write what they say, each with its event; what the savepoint held is given up."""
    for sql in fenced("sql"):
        await connection.execute(sql)
    app = tmp_path / "app.py"
    app.write_text("\n".join(fenced("python")))
    paid, refunded, nobodys = [
        await an_event(connection, source="shop", event_type=f"order.{kind}", payload=payload)
        for kind, payload in (
            ("paid", body(customer="ada", cents=4200)),
            ("refunded", body(customer="ada", cents=200)),
            ("refunded", body(customer=None, cents=1)),
        )
    ]
    async with hookd("processor", "--app", str(app), "--once", database_url=database_url) as once:
        assert await once.ended() == 0
    assert [tuple(row) for row in await connection.fetch(PAYMENTS)] == [(paid, "ada", 4200), (refunded, "ada", -200)]
    assert [(await row_of(connection, each))["status"] for each in (paid, refunded)] == ["processed", "processed"]
    row = await row_of(connection, nobodys)
    assert (row["status"], row["reason"]) == ("failed", "a refund for nobody")


def test_its_settings_are_as_it_says() -> None:
    """Each setting in its table is there, and has the default that it shows."""
    shown = re.findall(r"^\| `HOOKD_(\w+)` \| (\d+)", DOCUMENT, re.MULTILINE)
    assert len(shown) == 2
    for name, default in shown:
        assert ProcessorSettings.model_fields[name.lower()].default == float(default)
