# Everything a newcomer, a contributor or CI calls. Only python3, a C++ compiler and CMake are taken for granted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many tests wait for processes of their own: one worker more than there are cores keeps the cores busy.
WORKERS = $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

.DEFAULT_GOAL := help
.PHONY: help setup nightly up test lint soak bench lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## make .venv from the committed lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: install Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: on Debian and Ubuntu, apt-get install python3-venv."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

nightly: setup  ## build, test and benchmark PyTorch on this machine, end to end
	@$(BIN)/commonfleet nightly

up: setup  ## start the operator's installation: Prefect on PostgreSQL, its UI on port 4200, schedules
	@exec $(BIN)/commonfleet up

test: setup  ## the tests, under 10 minutes on 2 cores
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile $(ARGS)

lint: setup  ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: setup  ## fault tests with their full counts; SOAK_SEED repeats one, SOAK_STATE resumes
	@COMMONFLEET_SOAK=1 $(BIN)/python -m pytest -q -s --timeout=7200 -m soak tests $(ARGS)

bench: setup  ## the benchmarks, a line of JSON each
	@$(BIN)/python -m tests.bench $(ARGS)

lock:  ## resolve the dependencies anew into requirements.lock (needs uv)
	@uv pip compile pyproject.toml --group dev --universal --generate-hashes --python-version 3.11 -q --no-header -o requirements.lock
	@sed -i '1i # Made by `make lock` (uv pip compile --universal --generate-hashes). Do not edit by hand.' requirements.lock

clean:  ## remove what was made here (not COMMONFLEET_HOME)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
