# The same few verbs on every machine. Each makes what it needs; none needs another to be run first.
.POSIX:
.SUFFIXES:

PYTHON = python3
VENV = .venv
INSTALLED = $(VENV)/.installed

# Tests never look anything up outside this machine.
OFFLINE = HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 DO_NOT_TRACK=1 \
	PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true

.PHONY: install quickstart docs reference test test-slow test-all integration bench gpu torture lint format audit clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt install.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "distill-flow needs Python 3.11 or newer, $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sh install.sh $(VENV) quickstart,dev
	touch $(INSTALLED)

quickstart: $(INSTALLED)
	$(VENV)/bin/distill run quickstart

# The pages of README and docs/ as a site, for which neither building nor reading needs a network: build/site/index.html
docs: $(INSTALLED)
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html -c docs . build/site
	@echo "open build/site/index.html"

# docs/reference/, from the schemas, the commands and the docstrings.
reference: $(INSTALLED)
	PYTHONPATH=. $(VENV)/bin/python docs/generate.py

# Three workers on two cores, because some tests wait for servers; each file's tests on one worker, in the order of
# testpaths, which has the long files first. One thread each, or torch's own threads fight over the cores.
ONE_THREAD = $(OFFLINE) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest
PYTEST = $(ONE_THREAD) -n 3 --dist loadfile --no-loadscope-reorder

# The default tier, for every change: all that is not marked slow.
test: $(INSTALLED)
	$(PYTEST) -m "not slow and not integration"

# Whole runs that are killed, refused, crowded or served by real servers, and every shipped recipe.
test-slow: $(INSTALLED)
	$(PYTEST) -m "slow and not integration"

# Both in one go: the slow ones wait for servers while others compute.
test-all: $(INSTALLED)
	$(PYTEST)

# Engines and services around the runs, one test at a time: work pools, clusters, several hosts, the servers of
# docker/compose.yaml; and runs that `make torture` repeats a hundredfold. PostgreSQL is Debian's; where it cannot be
# installed, its tests are skipped.
integration: $(INSTALLED)
	sh install.sh $(VENV) integration
	@ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || ! command -v apt-get > /dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } > /dev/null || \
		echo "PostgreSQL cannot be installed: its tests are skipped" >&2
	$(ONE_THREAD) -m integration tests

# Alone on the machine, or the figures mean nothing.
bench: $(INSTALLED)
	$(OFFLINE) $(VENV)/bin/python -m benchmarks.throughput --json throughput.json
	$(OFFLINE) $(VENV)/bin/python -m benchmarks.augmentation --json augmentation.json
	$(OFFLINE) $(VENV)/bin/python -m benchmarks.tokenizing --json tokenizing.json

# On a machine with an accelerator, in under ten minutes: speed of a step, and SST-2 beside its control.
DATA = ../shared/data
gpu: $(INSTALLED)
	$(OFFLINE) $(VENV)/bin/python -m benchmarks.gpu --data $(DATA) --json gpu.json

# The long campaigns; each count can be set, and 0 leaves one out: make torture KILLS=20 RUNS=0
KILLS = 200
PRESSES = 60
CUTS = 200
FLIPS = 1000
RECIPES = 2000
OVERRIDES = 1000
FILES = 1000
BOMBS = 300
SPECIALS = 300
RUNS = 500
COLLECTIONS = 400
CHANGES = 300
torture: $(INSTALLED)
	$(OFFLINE) OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.torture --kills $(KILLS) --presses $(PRESSES) \
		--cuts $(CUTS) --flips $(FLIPS) --recipes $(RECIPES) --overrides $(OVERRIDES) --files $(FILES) \
		--bombs $(BOMBS) --specials $(SPECIALS) --runs $(RUNS) --collections $(COLLECTIONS) --changes $(CHANGES)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Known vulnerabilities of the pinned versions; asks the package index's advisories. A package that could not be looked
# up counts as a failure.
AUDIT = .venv-audit
audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf $(VENV) $(AUDIT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
