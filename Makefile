# `make demo` and `make test` work from a fresh clone: they make .venv and install into it what they need.

PYTHON ?= python3
JOBS ?= 2

ENVIRONMENT := .venv
BIN := $(ENVIRONMENT)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e
# the tests share the cores as processes; threads on top of them would only be in each other's way
QUIET_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs benchmarks clean distclean

help:  ## list what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(ENVIRONMENT)/has-abbe  ## segment and measure two images, and leave a report to open
	$(BIN)/abbe demo --out demo
	@echo "open demo/report.html"

test: lint  ## check style and types, and run the tests
	$(QUIET_THREADS) $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

lint: $(ENVIRONMENT)/has-tests  ## check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(ENVIRONMENT)/has-docs  ## build the documentation; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

benchmarks:  ## list the scripts behind the tables of the documentation
	@grep -l '__main__' benchmarks/*.py | while read -r file; do \
	  printf '%s\n    %s\n' "$$file" "$$(sed -n '1s/^"""//p' "$$file")"; done

clean:  ## remove what was built, but not the environment
	rm -rf demo build dist docs/_build docs/jupyter_execute .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environment too
	rm -rf $(ENVIRONMENT)

# Stamps: an install is repeated when what it depends on has changed.
$(ENVIRONMENT)/has-abbe: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(ENVIRONMENT)/has-tests: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	@touch $@ $(ENVIRONMENT)/has-abbe

$(ENVIRONMENT)/has-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[docs]'
	@touch $@ $(ENVIRONMENT)/has-abbe

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null \
	  || { echo "$(PYTHON): no such program; Abbe needs Python 3.11 or later: make demo PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) --version); Abbe needs 3.11 or later: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(ENVIRONMENT) || { rm -rf $(ENVIRONMENT); \
	  echo "no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
