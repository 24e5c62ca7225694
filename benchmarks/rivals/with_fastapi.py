"""FastAPI, SQLAlchemy 2's asynchronous ORM and asyncpg: `uvicorn benchmarks.rivals.with_fastapi:app`."""

import uuid
from datetime import datetime

from fastapi import FastAPI, Request
from sqlalchemy import FetchedValue
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.rivals.inbox import POOL_CONNECTIONS


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "inbox"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    received_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    source: Mapped[str]
    headers: Mapped[list[tuple[str, str]]] = mapped_column(JSONB)
    payload: Mapped[bytes]


engine = create_async_engine("postgresql+asyncpg://", pool_size=POOL_CONNECTIONS, max_overflow=0)
# Documented for asyncio: an object that was committed is not read again when it is looked at.
Session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


@app.post("/{source}")
async def store(source: str, request: Request) -> dict[str, str]:
    event = Event(source=source, headers=list(request.headers.items()), payload=await request.body())
    async with Session.begin() as session:
        session.add(event)
    return {"id": str(event.id)}
