"""The processor's settings."""

from typing import Literal

from pydantic import Field

from chassis.settings import Settings

MIB = 1024 * 1024


class ProcessorSettings(Settings):
    """What `hookd processor` reads."""

    app: str | None = Field(
        default=None, description="your handlers: a module, a package, or a path to a .py file; several with commas"
    )
    concurrency: int = Field(default=64, ge=1, le=1000, description="handlers that run at once")
    handler_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="an async handler is cancelled then; a thread's run counts as failed when it ends",
    )
    handler_connections: int = Field(
        default=8,
        ge=1,
        le=100,
        description="handlers with a connection that run at once, each with one of its own; PostgreSQL's default is to "
        "have 100 in all",
    )
    transaction_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="the time-out of handlers with a connection: their transaction is rolled back then; as long as one "
        "is open, PostgreSQL cannot vacuum what was deleted since",
    )
    lease_seconds: float = Field(
        default=60.0, ge=1, le=3600, description="a row of a process that died is taken again after that"
    )
    poll_seconds: float = Field(default=1.0, gt=0, le=3600, description="how often to look without a hint")
    attempts_max: int = Field(default=10, ge=1, le=100, description="runs of a handler before an event has failed")
    unhandled_seconds: float = Field(
        default=600.0,
        ge=0,
        description="how long an event no handler wants is kept for a processor that has one (a rolling deploy)",
    )
    stuck_threads_max: int = Field(
        default=16, ge=1, description="threads over their time-out before the process hands its rest over and restarts"
    )
    content_bytes_max: int = Field(
        default=25 * MIB, ge=1, description="what a compressed body may unfold into: as much as one may have as sent"
    )
    held_bytes_max: int = Field(default=64 * MIB, ge=MIB, description="bodies in memory at once")
    retention_days: int = Field(
        default=30,
        ge=5,
        le=3650,
        description="older days are dropped once their events are settled; at least 5: a chain of retries takes 76 h",
    )
    refused_hours: float = Field(
        default=24.0, gt=0, le=8760, description="how long a request that was refused at the edge is kept"
    )
    record_attempts: Literal["failed", "all"] = Field(
        default="failed", description="attempts that get a row in hookd.attempts"
    )
