.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= --numprocesses auto --dist loadfile

.PHONY: help install quickstart test test-all lint docs mutants bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: .venv/.installed ## make .venv and install the project in it, with the versions of constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install ## the whole study on the embedded model, offline: ends in the ratio table and a report
	HF_HUB_OFFLINE=1 $(BIN)/python -m sae_nfm experiment=quickstart

test: install ## the test suite
	HF_HUB_OFFLINE=1 $(BIN)/pytest $(WORKERS)

test-all: install ## the test suite with its slow tests
	HF_HUB_OFFLINE=1 $(BIN)/pytest $(WORKERS) -m 'slow or not slow'

lint: install ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: .venv/.docs ## the documentation as a site, build/site/index.html; what is wrong in it is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.venv/.docs: .venv/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

mutants: install ## changes of the code that no test notices (hours)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,mutants]'
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/mutmut run; $(BIN)/mutmut results

bench: install ## side by side with other SAE libraries, in an environment of their own
	$(MAKE) -C benchmarks PROJECT_PYTHON=$(CURDIR)/$(BIN)/python

clean: ## remove the environment; artifacts and results stay
	rm -rf .venv benchmarks/.venv
