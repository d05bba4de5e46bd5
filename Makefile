# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONFIG ?= configs/quickstart.yaml

.PHONY: run test check format lint types layers fast-tests docs-generated bench autobahn soak-sim clean help

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,dev]'
	@touch $@

run: $(INSTALLED) ## Install if needed and run a pipeline; CONFIG=path for your own
	@$(BIN)/jetsocket-ingest run $(CONFIG)

test: $(INSTALLED) ## All tests, a real Kafka broker included
	@$(BIN)/python -m pytest

check: $(INSTALLED) format lint types layers fast-tests ## Format, lint, types, layers, fast tests

format: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet . || { echo "Run: $(BIN)/ruff format ."; exit 1; }

lint: $(INSTALLED)
	@$(BIN)/ruff check --quiet .

types: $(INSTALLED)
	@$(BIN)/mypy

layers: $(INSTALLED)
	@$(BIN)/lint-imports --no-cache --no-logo 2>&1

fast-tests: $(INSTALLED)
	@$(BIN)/python -m pytest --quiet -n 2 -m "not slow" tests/unit

docs-generated: $(INSTALLED) ## Write the generated pages of docs/ anew
	@$(BIN)/python -m jetsocket_ingest.telemetry.reference > docs/telemetry.md
	@$(BIN)/jetsocket-ingest config reference > docs/configuration.md
	@$(BIN)/jetsocket-ingest config schema > docs/config.schema.json

bench: $(INSTALLED) ## CPU a message beside the floor of the machine; some minutes
	@$(BIN)/python -m benchmarks --save
	@$(BIN)/python -m benchmarks.report > docs/performance.md

autobahn: $(INSTALLED) ## WebSocket conformance of both engines, half an hour; AUTOBAHN='--minutes 8' stops, the next run goes on
	@$(BIN)/python -m tests.autobahn $(AUTOBAHN)

soak-sim: $(INSTALLED) ## Worlds of simulated connections, SEEDS=2000 from FIRST=0; SEED=n replays one and prints its history
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),2000) --first $(or $(FIRST),0))

clean: ## Remove the environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
