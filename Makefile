# Every target sets up its own virtual environment first, and again when the dependencies change.
#
#   make tune     measure and stretch the bundled model for three minutes, report in runs/first/report.html
#   make test     all tests: two at a time, then those that compare times alone
#   make lint     style, types and layers
#   make docs     the site in site/, with the page of systems made anew

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/first
BUDGET ?= 3m
SITE ?= site
JOBS ?= 2

BIN := $(VENV)/bin

.PHONY: tune test lint docs install clean

tune: $(VENV)/.core
	$(BIN)/farspan tune --budget $(BUDGET) --out $(OUT)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not timing"
	$(BIN)/python -m pytest -m timing

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/farspan systems --markdown > docs/systems.md.new
	mv docs/systems.md.new docs/systems.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(abspath $(SITE))

install: $(VENV)/.dev

$(VENV)/.core: pyproject.toml constraints.txt
	@echo "installing Farspan and what it needs into $(VENV): once, some minutes"
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@echo "installing Farspan and what it needs into $(VENV): once, some minutes"
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(VENV)/.core $@

clean:
	rm -rf $(VENV) $(SITE) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
