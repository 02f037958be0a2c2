PYTHON ?= python3
BIN := .venv/bin
# Touched once the package is installed; older than setup.cfg means: install again.
INSTALLED := .venv/.installed

.PHONY: help quickstart test test-slurm lint format results schema

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

quickstart: $(INSTALLED)  ## Distil a small student on CPU and evaluate it (3 minutes)
	rm -rf runs/quickstart
	$(BIN)/ukd-distill recipes/quickstart.yaml
	$(BIN)/ukd-eval knn --ckpt runs/quickstart

test: lint  ## Lint, types and tests
	$(BIN)/pytest

test-slurm: $(INSTALLED)  ## Tests of jobs, on a Slurm that they start themselves: needs slurm-wlm and munge
	$(BIN)/pytest -m slurm

lint: $(INSTALLED)  ## Lint and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## Format the code and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(INSTALLED)  ## Make every row of docs/results.md: hours on CPU; needs data/jpeg_cifar10
	$(BIN)/python benchmarks/results.py

schema: $(INSTALLED)  ## Write recipes/*.schema.json anew
	$(BIN)/python -m ukd.cli.schema

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
