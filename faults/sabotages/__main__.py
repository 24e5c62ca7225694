"""`python -m faults.sabotages NAME ARGUMENTS…`: `hookd ARGUMENTS…`, sabotaged."""

import sys

from chassis import supervisor
from faults.sabotage import SABOTAGES
from faults.sabotages import chassis, duplicates, effects, ingest, processor, replying, store, tls
from hookd.cli import main

__all__ = ["chassis", "duplicates", "effects", "ingest", "processor", "replying", "store", "tls"]

name = sys.argv.pop(1)
supervisor.HOOKD = (sys.executable, "-P", "-m", "faults.sabotages", name)
SABOTAGES[name]()
main()
