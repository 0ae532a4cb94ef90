# The one place for the commands that developers, CI and the README share.
PYTHON ?= python
COVERAGE = --cov=zsl_tagger --cov=data_prep --cov=cli
# Keep bytecode where the environment says not to: else each process that a test starts compiles all that it imports.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install check lint types test test-together test-alone test-fast coverage test-base fuzz bench docs

install:
	$(PYTHON) -m pip install -e ".[dev]"

# Types are checked beside the last tests, which leave the cores idle in part.
check: lint test-together
	$(MAKE) --jobs 2 types test-alone

# The rooms whose comments and docstrings are checked for idioms that readers stumble over.
ROOMS = assets system words records images datasets tagging reports sidecars bulk evaluation model export released \
	training packaged search teach serve
PLAIN = cli.py data_prep $(wildcard zsl_tagger/*.py) $(ROOMS:%=zsl_tagger/%) $(wildcard benchmarks/*.py) \
	benchmarks/README.md benchmarks/zero_shot docs .ci README.md CONTRIBUTING.md
lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	lint-imports
	codespell
	$(PYTHON) .ci/plain_words.py $(PLAIN)

types:
	$(PYTHON) -m mypy

# One process more than there are cores, since many tests wait for a process that they started; one thread each for
# torch: more would wait for each other. Tests that measure time, and Ray, which starts many processes, run after the
# others, alone.
WORKERS = $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
FAST = not (slow or browser or ray or alone)
test: test-together test-alone
test-together:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone and not ray" --durations=20
# Ray first: it starts slowly, and the types may still be checked when it does.
test-alone:
	$(PYTHON) -m pytest -m "alone or ray" $$(grep -rlE --include="test_*.py" "mark\.(alone|ray)" tests)

# These wait for nothing: one process for each core.
test-fast:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical -m "$(FAST)"

# Of the fast tests, which it makes take twice as long.
coverage:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical -m "$(FAST)" $(COVERAGE) --cov-report=term

# What needs no extra; .ci/run runs it on the lower bounds of the base install.
test-base:
	$(PYTHON) -m pytest tests/system tests/records/test_writers.py tests/images/test_find_images.py \
		tests/images/test_preprocessing.py tests/tagging --ignore=tests/tagging/test_heatmap.py \
		tests/sidecars/test_sidecar_texts.py tests/sidecars/test_sidecar_xmp.py tests/test_cli.py tests/test_options.py

# Four targets of untrusted input, 15 seconds each: sidecars, image headers, multipart bodies, query strings.
fuzz:
	$(PYTHON) tests/fuzz/run.py 15

# Into site/, without network; a broken link or a missing docstring is an error.
docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet

bench:
	$(PYTHON) -m benchmarks.tagging_speed
	$(PYTHON) -m benchmarks.install_size
