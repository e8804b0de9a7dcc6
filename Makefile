# Every target does its own set-up: a fresh machine needs Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
KILLS  ?= 100
FUZZ_SECONDS ?= 60
FAULTS ?= all
PYTEST  = $(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile
PARTS   = "tests/[a-d]*/" "tests/[e-s]*/" "tests/[t-z]*/ tests/test_*.py"
PIP     = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test coverage check docs soak bench clean

demo: $(VENV)/.all          ## the default recipe, from teacher to verdict
	$(VENV)/bin/edgekd pipeline

# Two processes share the work, file by file. In three parts, because a process that has loaded every runtime for a quarter
# of an hour has now and then been ended by the system when it forked.
test: $(VENV)/.dev          ## the tests, 10 minutes on 2 cores
	for part in $(PARTS); do $(PYTEST) -m "not soak" $$part || exit 1; done

coverage: $(VENV)/.dev     ## the tests again, with what they cover; takes half as long again
	rm -f .coverage
	for part in $(PARTS); do $(PYTEST) -m "not soak" --cov=edgekd --cov-append --cov-report= $$part || exit 1; done
	$(VENV)/bin/python -m coverage report --skip-covered

check: $(VENV)/.dev         ## format, lint, types, layers, the agent's Python 3.8
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/vermin --target=3.8- --no-tips --violations --quiet edgekd/agent

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev          ## the documentation as a site, in build/site; a warning is an error
	$(VENV)/bin/python -m mkdocs build --quiet --strict

soak: export EDGEKD_KILLS = $(KILLS)
soak: export EDGEKD_FUZZ_SECONDS = $(FUZZ_SECONDS)
soak: export EDGEKD_FAULTS = $(FAULTS)
soak: $(VENV)/.dev          ## kills (KILLS=n), faults (FAULTS=all or some), fuzz (FUZZ_SECONDS=n for each parser)
	$(VENV)/bin/python -m pytest -m soak --no-header -s

bench: $(VENV)/.dev         ## the figures that the README and docs quote
	for script in startup harness pipeline quantization qat latency_model budget narrow losses scaling training energy_estimator dispatch validate; do \
	  $(VENV)/bin/python benchmarks/$$script.py || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# torch first and by its exact version: an open range would take gigabytes of CUDA packages on a machine without a GPU.
$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.all
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .edgekd build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
