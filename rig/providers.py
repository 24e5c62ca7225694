"""docs/providers.md, written anew from the declarations: `python -m rig.providers`."""

from pathlib import Path

from protocol.providers import PROVIDERS
from protocol.providers.document import render

FILE = Path(__file__).parents[1] / "docs" / "providers.md"


def write(file: Path = FILE) -> None:
    file.write_text(render(PROVIDERS))


if __name__ == "__main__":
    write()
