"""Keep a ledger of what Stripe was paid. `hookd up --app examples/stripe_ledger.py`, and Stripe's endpoint at …/stripe.

The entry and the event's own end are one transaction: both are committed or neither, whatever dies in between. The
invoice is the key, so that a second event of the same payment adds nothing.

    CREATE TABLE ledger (invoice text PRIMARY KEY, cents bigint NOT NULL, currency text NOT NULL, event uuid NOT NULL);
"""

import asyncpg
from pydantic import BaseModel, PositiveInt

import hookd


class Invoice(BaseModel):
    id: str
    amount_paid: PositiveInt
    currency: str


class Data(BaseModel):
    object: Invoice


class Paid(BaseModel):
    """Of an `invoice.paid`, what a ledger needs."""

    data: Data


ENTER = """
INSERT INTO ledger (invoice, cents, currency, event) VALUES ($1, $2, $3, $4) ON CONFLICT (invoice) DO NOTHING
"""


@hookd.on("stripe", event="invoice.paid")
async def enter(paid: Paid, event: hookd.Event, conn: asyncpg.Connection) -> None:
    """One entry for each invoice."""
    invoice = paid.data.object
    await conn.execute(ENTER, invoice.id, invoice.amount_paid, invoice.currency, event.id)
