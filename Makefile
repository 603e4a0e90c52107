# `make` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test check clean

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# A file of tests at a time on each core; four at most, for memory.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: .venv/installed ## install into .venv, distil a small digits network (one to three minutes), write a report
	@$(BIN)/limbeck quickstart

test: .venv/installed-for-tests check ## everything that must hold: checks, tests, the examples in the docstrings
	@echo "testing (some minutes) ..."
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q $(SIDE_BY_SIDE)
	@echo "running the examples in the docstrings ..."
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q $(SIDE_BY_SIDE) --doctest-modules src

check: .venv/installed-for-tests ## style, types, who imports whom (about a minute)
	@echo "checking style ..."
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted; to mend it: $(BIN)/ruff format ."; exit 1; }
	@echo "checking types ..."
	@$(BIN)/pyright
	@echo "checking imports ..."
	@$(BIN)/lint-imports --no-logo --no-cache

clean: ## remove .venv, caches and builds; runs/ is kept
	@rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again only when what is to be installed has changed.
.venv/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing limbeck into .venv (some minutes, 6 GB: torch brings its CUDA libraries even where there is no GPU) ..."
	@$(PIP) -e .
	@touch $@

.venv/installed-for-tests: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing limbeck and its tools into .venv (some minutes, 6 GB: torch brings its CUDA libraries even where there is no GPU) ..."
	@$(PIP) -e '.[all]'
	@touch .venv/installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("limbeck needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
