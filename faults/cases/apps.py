"""The apps of the processor's cases, and what their handlers wrote."""

import asyncio

from faults.scene import Scene

# What every app of these cases begins with. A line in `handled` is a start, one in `ended` the end of a run.
PREAMBLE = """\
import asyncio, ctypes, os, signal, time, zlib
import hookd

HERE = os.path.dirname(os.path.abspath(__file__))


def noted(event, name="handled"):
    with open(os.path.join(HERE, name), "ab", buffering=0) as file:
        file.write(f"{event.id} {event.attempt} {time.monotonic()}\\n".encode())


def chance(event):
    return zlib.crc32(f"{event.id} {event.attempt}".encode()) / 2**32

"""
TAKES_A_WHILE = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(0.2)
    noted(event, "ended")
"""
LINES_SECONDS_MAX = 30.0


def app_of(scene: Scene, code: str) -> str:
    """The path of an app with that code after the preamble."""
    path = scene.folder / "handlers.py"
    path.write_text(PREAMBLE + code)
    return str(path)


def lines(scene: Scene, name: str = "handled") -> list[tuple[str, int, float]]:
    """(id, attempt, monotonic time) of each line that handlers wrote into that file."""
    path = scene.folder / name
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(each[0], int(each[1]), float(each[2])) for each in words]


def cut_off(scene: Scene) -> set[str]:
    """The ids of the events whose handlers were begun and have not come to their end."""
    return {each for each, _, _ in lines(scene)} - {each for each, _, _ in lines(scene, "ended")}


async def until_lines(scene: Scene, count: int, name: str = "handled") -> None:
    async with asyncio.timeout(LINES_SECONDS_MAX):
        while len(lines(scene, name)) < count:
            await asyncio.sleep(0.02)
