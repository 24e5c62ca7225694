"""One case after the other, each on a scene of its own."""

import asyncio
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults import breaking
from faults.case import Case
from faults.scene import Scene
from rig.server import Server, template

LOOK_SECONDS_MAX = 10.0  # at what a case has left that ended badly


@dataclass
class Result:
    """What came of a case. `violations` is empty when the promises held. `blunt`: why its sabotage broke nothing."""

    case: Case
    seed: int
    sabotage: str | None
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    blunt: str = ""

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def is_as_it_should_be(self) -> bool:
        """It holds; or on a hookd that is broken indeed, it does not."""
        return not self.blunt and self.holds != bool(self.sabotage)

    def as_dict(self) -> dict[str, Any]:
        case = {name: value for name, value in asdict(self.case).items() if name != "run"}
        return {**asdict(self), "case": case, "holds": self.holds}


class Stage:
    """Where scenes are set up: a folder, and the data of a fresh PostgreSQL with hookd's schema."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = template(folder / "template")

    async def run(self, case: Case, seed: int, sabotage: str | None = None) -> Result:
        result, began = Result(case, seed, sabotage), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="case-", dir=self._folder, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o755)
            server = Server(folder, self._template)
            scene = Scene(folder, server, seed, sabotage, figures=result.figures)
            try:
                await server.start()
                async with asyncio.timeout(case.seconds_max):
                    await case.run(scene)
                assert case.twice or not scene.excused, "events may be handled twice here, and the case says not why"
                result.violations = await scene.violations()
            except Exception as error:  # noqa: BLE001 - whatever ends a case has ended it badly
                result.violations = [_told(error), *await _left_behind(scene)]
            finally:
                result.blunt = breaking.bluntness(folder) if sabotage else ""
                await asyncio.to_thread(server.end)
        result.seconds = time.monotonic() - began
        return result


async def _left_behind(scene: Scene) -> list[str]:
    """What a case that ended badly has left: whether it was merely late, or something is lost or was done twice."""
    if not scene.server.runs:
        return []
    try:
        async with asyncio.timeout(LOOK_SECONDS_MAX):
            return await scene.violations()
    except Exception as error:  # noqa: BLE001 - the server may be in any state
        return [f"and PostgreSQL does not say what was left: {_told(error)}"]


@contextmanager
def stage(below: Path | None) -> Iterator[Stage]:
    """In a temporary folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hookd-faults-", dir=below, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)  # as root the server runs as another user, who must be able to enter
        yield Stage(folder)


def _told(error: BaseException) -> str:
    """Its last words, and the line of the case where it happened."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "/faults/" in frame.filename]
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    words = str(error).strip() or ("it took too long" if isinstance(error, TimeoutError) else "")
    return ": ".join(filter(None, (type(error).__name__, words))) + place
