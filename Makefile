# Everything a fresh clone needs: `make demo`, `make test`.  `make help` lists the verbs.
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
# One thread each: tests and searches run several processes on few cores.
export OMP_NUM_THREADS ?= 1

.PHONY: help venv compiled demo test test-all lint types format clean

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch==2.13.0
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

venv: $(VENV)/.installed ## Make .venv with the tested versions

compiled: venv
	@# Hundreds of processes import the library; where PYTHONDONTWRITEBYTECODE is set, as in many images, each would compile it.
	$(PY) -m compileall -q nas searchspaces

demo: compiled ## Train, search, kill, resume, draw the front, take a winner home (under two minutes)
	$(PY) experiments/demo/run.py

lint: venv ## Ruff: style and errors
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: venv ## Strict type check
	$(VENV)/bin/mypy

format: venv ## Format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: compiled lint types ## Lint, types and the tests (under 15 minutes on two cores)
	$(VENV)/bin/pytest -n 2 --dist worksteal -m "not slow"

test-all: compiled lint types ## The same with the slow tests
	$(PY) -m pip install -q -c constraints.txt -e '.[jobs]'
	$(VENV)/bin/pytest -n 2 --dist worksteal

clean: ## Remove .venv and what the demo wrote
	rm -rf $(VENV) runs
