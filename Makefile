PYTHON ?= python3
BIN := .venv/bin
TORCH ?= 2.11.0
FUZZ_SECONDS ?= 3600
DATA := mnist fashion-mnist cifar10

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

serve: .venv/serve ## serve the default bundle on port 8000, creating the environment first
	$(BIN)/python -m app

test: .venv/dev ## run the whole test suite
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=100

check: .venv/dev ## lint, formatting, types, container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.cpu.yml \
	    deploy/monitoring.yml

format: .venv/dev ## put lint and formatting right where that is mechanical
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

data: .venv/dev ## fetch and verify the public data sets into data/
	$(BIN)/python -m training data $(DATA)

train: .venv/dev ## train and export one config: make train CONFIG=training/configs/mnist.toml
	$(BIN)/python -m training train $(CONFIG)
	$(BIN)/python -m training export $(CONFIG)

bench: .venv/dev ## measure the start, serving against its peers and a bare torch loop (needs wrk)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.serving

faults: .venv/dev ## break things around the real service and hold it to its promises (needs wrk, slowhttptest, faketime)
	$(BIN)/python -m benchmarks.faults $(FAULTS)

peers: ## install the servers that the serving benchmark compares with, in an environment of their own
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q -r benchmarks/serving/peers/requirements.txt

fuzz: .venv/dev ## damage payloads in many more ways than the test suite does: some minutes
	$(BIN)/pytest tests/codec/test_fuzz.py --hypothesis-profile fuzz

conformance: .venv/dev ## hold every operation against the OpenAPI document, in 20,000 cases: some minutes
	$(BIN)/python -m benchmarks.conformance

fuzz-hour: .venv/dev ## fuzz every parser for an hour, or FUZZ_SECONDS, into fuzzing/results.json (Linux on x86-64)
	$(BIN)/python -m fuzzing --seconds $(FUZZ_SECONDS) --folder runs/fuzzing --results fuzzing/results.json

test-torch: ## run the suite under another torch, in an environment of its own: make test-torch TORCH=2.12.0
	$(PYTHON) -m venv .venv-torch
	grep -vE '^(torch|triton|setuptools|nvidia-.*|cuda-.*)==' requirements.lock > .venv-torch/constraints
	.venv-torch/bin/pip install -q -c .venv-torch/constraints -e '.[dev]' -e ./client torch==$(TORCH)
	.venv-torch/bin/pytest

lock: .venv/dev ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile -q --universal --all-extras --no-emit-index-url --no-annotate --python-version 3.11 \
	    --custom-compile-command 'make lock' pyproject.toml -o requirements.lock

.venv/serve: pyproject.toml requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e .
	touch $@

.venv/dev: pyproject.toml requirements.lock client/pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c requirements.lock -e '.[dev]' -e ./client
	touch $@ .venv/serve

.PHONY: help serve test test-torch check format data train bench faults peers fuzz fuzz-hour conformance lock
