# `make demo` shows the product, `make test` checks it, `make test-research` checks what measures it.
# All install what they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo stop test test-research test-fleet test-servers lint format lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install:  ## build .venv with the calico command (shared environments: ~/.cache/calico)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "calico: Python 3.11 or newer is needed")'
	@$(PYTHON) tools/install.py

demo: install  ## Label Studio with 12 pre-annotated groups of images
	@$(BIN)/calico demo

stop:  ## stop what `make demo` started
	@$(BIN)/calico demo --stop

test: lint  ## what must hold of the product: style, types and its tests
	@$(PYTHON) tools/install.py --chromium --readers --helm
	$(BIN)/python -m pytest

test-research: install  ## the tests of the measurements in research/
	$(BIN)/python -m pytest -m 'research and not gpu and not slow' tests/research

test-servers: install  ## several servers on PostgreSQL and S3 (minutes; needs PostgreSQL)
	@$(PYTHON) tools/install.py --buckets
	PYTHONPATH=$(CURDIR)/.venv/buckets $(BIN)/python -m pytest -m slow tests/servers

test-fleet: install  ## the tests of a fleet on Ray, which they install; minutes long
	$(PYTHON) tools/install.py --fleet --helm
	PYTHONPATH=$(CURDIR) .venv/fleet/bin/python -m pytest -s -m fleet tests/fleet

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock:  ## renew constraints.txt from pyproject.toml
	@$(PYTHON) tools/install.py --lock

clean:  ## remove .venv and the tools' caches; shared environments stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
