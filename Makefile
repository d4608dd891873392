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

soak: .venv/dev ## a million requests of every kind: memory, open files and latency (needs wrk)
	$(BIN)/python -m benchmarks.serving.soak

overload: .venv/dev ## ten times the peak load for a minute (needs wrk)
	$(BIN)/python -m benchmarks.faults overload

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
	.venv-torch/bin/pip install -q --no-deps --require-hashes -r requirements-dev.lock
	.venv-torch/bin/pip install -q torch==$(TORCH)
	.venv-torch/bin/pip install -q --no-deps --no-build-isolation -e . -e ./client
	.venv-torch/bin/pytest

lock: .venv/dev ## write the lock files anew from pyproject.toml; make lock UPGRADE='-P pillow' raises a package
	cat requirements-dev.lock torch.lock > .venv/all.lock
	$(COMPILE) --all-extras $(UPGRADE) -o .venv/all.lock
	cp .venv/all.lock .venv/service.lock
	$(COMPILE) -o .venv/service.lock
	awk '$(MARK_TORCH) !of_torch' .venv/service.lock > requirements.lock
	awk '$(MARK_TORCH) !of_torch' .venv/all.lock > requirements-dev.lock
	awk '$(MARK_TORCH) of_torch || /^#/' .venv/all.lock > torch.lock

sbom: .venv/dev ## write sbom.cdx.json anew; on Linux x86_64 with Python 3.11, as the image has it
	sed -nE 's/^([a-z0-9.-]+=)(=[^\\]*).*/\1=\2/p' requirements.lock torch.lock > .venv/packages.txt
	$(BIN)/pip install -q --dry-run --ignore-installed --no-deps --only-binary :all: \
	    --report .venv/report.json -r .venv/packages.txt
	$(BIN)/python deploy/sbom.py .venv/report.json > sbom.cdx.json

image: ## build the image with buildah, where there is no Docker engine
	buildah build --format docker -t vaeserve:cpu \
	    $(foreach name,PYTHON_IMAGE PIP_INDEX_URL TORCH_INDEX_URL TORCH_SHA256,--build-arg $(name)) .

restricted: .venv/dev ## run the image as compose does, with runc, and record what it can do (needs root)
	$(BIN)/python -m deploy.restricted

COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate \
    --python-version 3.11 --custom-compile-command 'make lock' pyproject.toml
MARK_TORCH := /^[a-z]/ { of_torch = /^(torch|triton|nvidia-.*|cuda-.*)==/ }

# pip verifies each file by its hashes in the lock, but for torch, whose build its index chooses: for the CPU on one
# machine, for CUDA on another. docs/deploy.md, "Know what is inside".
.venv/serve: LOCK = requirements.lock
.venv/serve: PROJECTS = -e .
.venv/dev: LOCK = requirements-dev.lock
.venv/dev: PROJECTS = -e . -e ./client
.venv/serve: pyproject.toml requirements.lock torch.lock
.venv/dev: pyproject.toml requirements-dev.lock torch.lock client/pyproject.toml
.venv/serve .venv/dev:
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-deps --require-hashes -r $(LOCK)
	grep -oE '^[a-z0-9-]+==[^ ]+' torch.lock > .venv/torch.txt
	$(BIN)/pip install -q -c .venv/torch.txt torch
	$(BIN)/pip install -q --no-deps --no-build-isolation $(PROJECTS)
	touch $@ .venv/serve

.PHONY: help serve test test-torch check format data train bench faults soak overload peers fuzz fuzz-hour conformance \
    lock sbom image restricted
