"""`python -m hookd`."""

from hookd.cli import main

main()
