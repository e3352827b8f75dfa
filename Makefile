# Needs python3 (>= 3.11) and make; everything else goes into .venv from the hashed lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: train test bench lint lock clean

train: $(READY)  ## Train the default experiment: make train ARGS="configs/digits.yaml steps=100"
	$(BIN)/python -m train $(ARGS)

test: $(READY)  ## Run the tests: make test ARGS="tests/test_reducers.py -k mean"
	$(BIN)/python -m pytest $(ARGS)

bench: $(READY)  ## Measure speed in ratios: make bench ARGS="log_latency writer_cost --json figures.json"
	$(BIN)/python -m tests.benchmarks $(ARGS)

lint: $(READY)  ## Style, types and the import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --warnings
	$(BIN)/lint-imports

lock: $(READY)  ## Renew requirements.lock from pyproject.toml.
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--upgrade --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV)

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
