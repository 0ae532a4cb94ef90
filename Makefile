# The one place for the commands that developers, CI and the README share.
PYTHON ?= python

.PHONY: install check lint types test bench

install:
	$(PYTHON) -m pip install -e ".[dev]"

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	lint-imports

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m benchmarks.tagging_speed
	$(PYTHON) -m benchmarks.install_size
