"""The load generator of the figures of record: wrk, with a script that POSTs."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import sample
from rig.processes import BenchmarkError, output_of

SCRIPT = Path(__file__).with_name("post.lua")
MISSING = "wrk is not installed, and these figures are taken with it: apt-get install wrk (or brew install wrk)"


@dataclass(frozen=True)
class Load:
    """What wrk saw. `refused`: answers of 400 and more; `broken`: connections that failed, answers that never came."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    p999_ms: float = math.nan

    @property
    def acknowledged(self) -> int:
        return self.requests - self.refused

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


def is_there() -> bool:
    return shutil.which("wrk") is not None


async def post(
    folder: Path, port: int, *, connections: int, seconds: float, ids: Path | None = None, bodies: Sequence[Path] = ()
) -> Load:
    """POST from one thread over `connections` for so long: the sample, or `bodies`, each named for its event, in turn.

    `ids`: a file for the ids that were answered. Nothing is sent for no time at all.
    """
    if not seconds:
        return Load(requests=0, seconds=1, refused=0, broken=0, p50_ms=0, p99_ms=0)
    if not bodies:
        body = folder / "body.json"
        body.write_bytes(sample.BODY)
        bodies = [body]
    url = f"http://127.0.0.1:{port}/{sample.SOURCE}"
    # wrk counts in whole seconds.
    options = ("-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "10s")
    output = await output_of(folder, "wrk", *options, "-s", SCRIPT, url, "--", ids or "-", *bodies)
    try:
        found = json.loads(output.splitlines()[-1])
    except ValueError:
        raise BenchmarkError(f"wrk said: {output[-500:]}") from None
    return Load(seconds=found.pop("microseconds") / 1_000_000, **found)
