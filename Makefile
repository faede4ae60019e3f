# Everything starts from a bare checkout: Python 3.11 or later, git and make; the rest comes from PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done
SETUP_TFLITE := .setup-tflite-done
SETUP_MODELS := .models/.setup-done
SHELL := /bin/bash
# Recurrent models are small: more threads than one cost more than they bring.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench setup clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

demo: setup  ## compile the watch example for the Raspberry Pi and show the report
	cd examples/watch && $(CURDIR)/$(BIN)/edgeseq compile --target rpi --out build
	@echo
	@echo "The report: $(CURDIR)/examples/watch/build/rpi/report.html"

test: setup lint  ## lint, types, layers, all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## lay out the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## measure what is claimed, beside the peers (BENCH="host --quick" for a part)
	$(BIN)/python -m benchmarks $(BENCH)

setup: $(SETUP) $(SETUP_TFLITE) $(SETUP_MODELS)  ## make the environments (repeated when the versions change)

$(SETUP): pyproject.toml constraints.txt scripts/setup_env.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edgeseq needs Python 3.11 or later; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing edgeseq into $(VENV) (about a gigabyte from PyPI; a few minutes)"
	bash scripts/setup_env.sh $(PYTHON) $(VENV) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(SETUP_TFLITE): constraints-tflite.txt scripts/setup_tflite.sh scripts/setup_env.sh
	bash scripts/setup_tflite.sh $(PYTHON)
	@touch $@

$(SETUP_MODELS): constraints-models.txt scripts/setup_models.sh | $(SETUP)
	bash scripts/setup_models.sh $(BIN)/python
	@touch $@

clean:  ## remove environments, caches and build outputs
	rm -rf $(VENV) .venv-tflite $(SETUP_TFLITE) .models build dist *.egg-info examples/*/build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
