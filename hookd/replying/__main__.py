"""`python -m hookd.replying APP`: does a handler of that app reply? Exit code 0: yes; 1: no; 2: it has faults."""

import sys

from processor.handling.app import AppError, load


def main(app: str) -> int:
    try:
        return 0 if load(app).has_replies else 1
    except AppError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
