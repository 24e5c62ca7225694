"""`python -m faults.sabotages NAME ARGUMENTS…`: `hookd ARGUMENTS…`, sabotaged. Without any: try them all, and end."""

import sys

from chassis import supervisor
from faults import breaking
from faults.sabotages import chassis, duplicates, effects, ingest, processor, replying, store, tls
from hookd.cli import main

__all__ = ["chassis", "duplicates", "effects", "ingest", "processor", "replying", "store", "tls"]

if len(sys.argv) == 1:
    sys.exit(breaking.check_all() > 0)
name = sys.argv.pop(1)
supervisor.HOOKD = (sys.executable, "-P", "-m", "faults.sabotages", name)
breaking.sabotage_here(name)
main()
