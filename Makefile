PYTHON ?= python3
BIN := .venv/bin

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12
.PHONY: help

.venv/serve: pyproject.toml requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e .
	touch $@

.venv/dev: pyproject.toml requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e '.[dev]'
	touch $@ .venv/serve

lock: ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile -q --universal --all-extras --no-emit-index-url --no-annotate --python-version 3.11 \
	    --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
.PHONY: lock
