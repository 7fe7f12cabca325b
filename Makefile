# Everything from a fresh clone: `make demo` and `make test` set up .venv themselves and are quick when nothing changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo

.PHONY: help setup demo test check test-slow format clean

help: ## show these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# One pip command for all: OpenCV's two wheels share a folder and the contrib one must be written last.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	$(BIN)/protoocc doctor
	touch $@

setup: $(VENV)/.installed ## make .venv with everything

demo: setup ## the main job on a generated world: data, labels, masks, shards, training, table, pictures
	$(BIN)/protoocc demo --out $(DEMO_OUT)

test: setup ## the fast tests
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: setup ## the slow tests
	$(BIN)/python -m pytest -q -m slow

check: setup ## style, types, import contracts, sizes of files and functions, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q --noconftest tests/test_architecture.py tests/test_docs.py

format: setup ## rewrite files in house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what make and the demo wrote
	rm -rf $(VENV) $(DEMO_OUT) .mypy_cache .ruff_cache .pytest_cache *.egg-info
