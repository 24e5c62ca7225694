"""Whether a rival can be run here, and which versions of its packages are."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"  # where `make bench` puts them: a folder nobody commits


@dataclass(frozen=True)
class Packages:
    python: Sequence[str] = ()
    node: Sequence[str] = ()

    def missing(self) -> list[str]:
        """What is not installed, in words."""
        without = [name for name in self.python if not _python_version(name)]
        without += [f"{name} (Node)" for name in self.node if not _node_version(name)]
        return [*without, "node"] if self.node and shutil.which("node") is None else without

    def versions(self) -> str:
        found = [("Node", _node_s_own_version())] if self.node else []
        found += [(name, _python_version(name)) for name in self.python]
        found += [(name, _node_version(name)) for name in self.node]
        return ", ".join(f"{name} {version}" for name, version in found)


NO_PACKAGES = Packages()


def _python_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _node_s_own_version() -> str:
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return told.stdout.strip().removeprefix("v")


def _node_version(name: str) -> str:
    file = NODE_MODULES / name / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else ""


def libpq(url: str) -> dict[str, str]:
    """What points every one of these libraries at that database."""
    parts = urlsplit(url)
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return {
        "PGHOST": given["host"],
        "PGPORT": given["port"],
        "PGUSER": parts.username or "",
        "PGDATABASE": parts.path.removeprefix("/"),
        "NODE_PATH": str(NODE_MODULES),
        "NODE_ENV": "production",
    }
