# The two commands: `make demo` shows the product, `make test` checks it. Both install what they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo stop test lint format lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z0-9]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install:  ## build .venv with the calico command (shared environments: ~/.cache/calico)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "calico: Python 3.11 or newer is needed")'
	@$(PYTHON) tools/install.py

demo: install  ## Label Studio with 12 pre-annotated groups of images
	@$(BIN)/calico demo

stop:  ## stop what `make demo` started
	@$(BIN)/calico demo --stop

test: lint  ## everything that must hold: style, types and all tests
	@$(PYTHON) tools/install.py --chromium
	$(BIN)/python -m pytest

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
