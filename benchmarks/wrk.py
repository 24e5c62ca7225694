"""The load generator of the figures of record: wrk, with a script that POSTs."""

import json
import shutil
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

    @property
    def acknowledged(self) -> int:
        return self.requests - self.refused

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


def is_there() -> bool:
    return shutil.which("wrk") is not None


async def post(folder: Path, port: int, *, connections: int, seconds: float, ids: Path | None = None) -> Load:
    """POST the sample from one thread over `connections` for so long. `ids`: a file for the ids that were answered."""
    body = folder / "body.json"
    body.write_bytes(sample.BODY)
    url = f"http://127.0.0.1:{port}/{sample.SOURCE}"
    # wrk counts in whole seconds.
    options = ("-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "10s")
    output = await output_of(folder, "wrk", *options, "-s", SCRIPT, url, "--", body, *([ids] if ids else []))
    try:
        found = json.loads(output.splitlines()[-1])
    except ValueError:
        raise BenchmarkError(f"wrk said: {output[-500:]}") from None
    return Load(seconds=found.pop("microseconds") / 1_000_000, **found)
