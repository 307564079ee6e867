# Thin targets; the logic is in the heatvit package. Each target that needs Python builds .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process a core; the tests of a file stay together, because they share what they build.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test lint fast mutants browser clean

help: ## Print this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## Build .venv with everything that demo and test need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else f"python3 must be 3.10 to 3.12, not {v[0]}.{v[1]}; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(STAMP) ## Train, quantize, generate, simulate and report on the embedded digits (build/demo)
	$(RUN)/heatvit demo --out build/demo

test: lint ## Lint, types, unit and property tests, RTL in Verilator, report in a browser
	$(RUN)/python -m pytest -q $(PARALLEL)

fast: $(STAMP) ## Only the tests that need no Verilator build, each under ten seconds
	$(RUN)/python -m pytest -q $(PARALLEL) -m "not slow and not verilator and not browser"

lint: $(STAMP) ## ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

mutants: $(STAMP) ## Break one operator or constant at a time and count how many the tests catch
	$(RUN)/python tests/mutants.py --json build/mutants.json

browser: ## Install Debian's Chromium for the report test (needs root)
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -qq -y chromium) || echo "no browser: its test will be skipped"

clean: ## Remove everything that was built, .venv included
	rm -rf build $(VENV) *.egg-info
