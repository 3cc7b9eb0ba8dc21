# Everything is done in .venv, which this file makes and keeps up to date. No root is needed. GNU make.

PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$python >/dev/null 2>&1 || continue; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)

VENV := .venv
BIN := $(VENV)/bin
SERVERS := cd tests && ../$(BIN)/python -m servers
# Most tests wait rather than compute, so that more than there are cores run at once. To debug: make test PARALLEL=
PARALLEL := -n 4 --dist worksteal
# Those that share a server run one after the other in one of these, and those that have their own beside them.
ONE_SHARED := -n 3 --dist loadgroup
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-rabbitmq test-kafka test-kafka-cluster test-long check lint types format bench brokers brokers-4 brokers-stop build clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(VENV)/.demo ## see it work: a page with five queues, on http://127.0.0.1:8765
	@$(BIN)/queuecast demo --folder .demo

test: $(VENV)/.dev ## run the tests
	@$(BIN)/python -m pytest $(PARALLEL) -m "not rabbitmq and not kafka" $(ARGS)

test-rabbitmq: $(VENV)/.dev ## run the tests that want RabbitMQ servers: after make brokers and make brokers-4
	@$(BIN)/python -m pytest $(PARALLEL) -m "rabbitmq and not long" $(ARGS)

test-kafka: $(VENV)/.dev ## run the tests that want a Kafka: after make brokers
	@$(BIN)/python -m pytest $(ONE_SHARED) -m "kafka and not cluster" $(ARGS)

test-kafka-cluster: $(VENV)/.dev ## kill brokers of a cluster of three, under load too: two minutes
	@$(BIN)/python -m pytest -m cluster $(ARGS)

test-long: $(VENV)/.dev ## run a task for longer than RabbitMQ lets a message be held: a quarter of an hour
	@$(BIN)/python -m pytest -m long -o faulthandler_timeout=0 $(ARGS)

check: lint types test ## lint, types and tests: what must pass before a change goes in

lint: $(VENV)/.dev ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy and pyright, both strict
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev ## let ruff put right what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.bench ## run the benchmarks against the peers that are installed (bench/README.md)
	@for script in fanout unicast idle sqlite_tasks latency http_submit startup; do \
		$(BIN)/python bench/$$script.py || exit 1; \
		done

brokers: $(VENV)/.made ## start a local RabbitMQ and a local Kafka, which stay: for the tests that need them
	@$(SERVERS) rabbitmq kafka

brokers-4: $(VENV)/.made ## start a local RabbitMQ 4.x beside it
	@$(SERVERS) rabbitmq-4

brokers-stop: $(VENV)/.made ## stop what these two have started
	@$(SERVERS) --stop rabbitmq rabbitmq-4 kafka

build: $(VENV)/.dev ## wheel and sdist in dist/
	@rm -rf dist
	@$(BIN)/python -m build

clean: ## remove the virtual environment and what was built and cached
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp in .venv says that a set of packages is installed as pyproject.toml has it now.

$(VENV)/.made:
	@if [ -z "$(PYTHON)" ]; then \
		echo "queuecast needs Python 3.11 or newer, and found no python3 of that age in PATH." >&2; exit 1; fi
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python's venv module is incomplete here. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(INSTALL) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	@echo "Installing queuecast into $(VENV) ..."
	@$(INSTALL) --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing queuecast and what its tests need into $(VENV) ..."
	@$(INSTALL) --editable ".[demo]" --group dev
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.made
	@echo "Installing queuecast and the peers of its benchmarks into $(VENV) ..."
	@$(INSTALL) --editable ".[demo]" --group bench
	@touch $@
