# Needs python3 (>= 3.11) and make; everything else goes into .venv from the hashed lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: train test test-long test-browser screenshot test-matrix matrix modes bench faults fuzz properties docs lint lock clean

train: $(READY)  ## Train the default experiment: make train ARGS="configs/digits.yaml steps=100"
	$(BIN)/python -m train $(ARGS)

test: $(READY)  ## Run the tests but the long ones: make test ARGS="tests/reduce -k mean"
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(READY)  ## The tests that take half a minute each: whole trainings, processes, sweeps, benchmarks.
	$(BIN)/python -m pytest -m long $(ARGS)

test-browser: $(READY)  ## TensorBoard on a run, in Debian's chromium (packages chromium, chromium-driver), if it is there.
	$(BIN)/python -m pytest -n 0 tests/browser $(ARGS)

screenshot: $(READY)  ## Renew the picture in the README, of 120 steps of the default experiment.
	SOWLOG_SCREENSHOT=train/tensorboard.png $(BIN)/python -m pytest -n 0 --timeout 0 tests/browser

# The lowest supported versions on 3.11, and the locked newest ones on 3.13 where that Python is at hand.
MATRIX := tests/reduce tests/tree tests/sow tests/testing tests/log/test_metrics.py tests/test_golden_run.py
FLOOR := .cache/floor
NEWEST := .cache/newest
NEWEST_PYTHON ?= python3.13

test-matrix: $(FLOOR)/.ready  ## The tests of the device side on the lowest and the newest jax and flax.
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(FLOOR)/jax $(FLOOR)/bin/python -m pytest $(MATRIX) $(ARGS)
	@if $(NEWEST_PYTHON) --version >/dev/null 2>&1; then $(MAKE) test-newest; \
	else echo "test-matrix: $(NEWEST_PYTHON) is absent, so the newest versions were NOT tested"; fi

.PHONY: test-newest
test-newest: $(NEWEST)/.ready
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(NEWEST)/jax $(NEWEST)/bin/python -m pytest $(MATRIX) $(ARGS)

matrix: $(READY)  ## Every product of cases, of which a test run has a few: JAX's modes, eager shard_map, ways.
	SOWLOG_MATRIX=all $(BIN)/python -m pytest tests/reduce/test_ambient.py tests/sow/test_cadence.py \
		tests/sow/test_transforms.py tests/sow/test_ways.py $(ARGS)

# JAX's transfer guard would refuse the input of every test: tests/reduce/test_ambient.py covers it.
MODES := JAX_ENABLE_CHECKS=1 JAX_CHECK_TRACER_LEAKS=1 JAX_DEBUG_NANS=1 JAX_DEBUG_INFS=1 JAX_ENABLE_X64=1 \
	JAX_NUMPY_DTYPE_PROMOTION=strict
modes: $(READY)  ## The tests of the device side under each of JAX's modes: about five minutes a mode.
	@for mode in $(MODES); do echo "modes: $$mode"; \
	env $$mode $(BIN)/python -m pytest tests/reduce tests/tree tests/sow $(ARGS) || exit 1; done

bench: $(READY)  ## Measure speed in ratios: make bench ARGS="log_latency writer_cost --json figures.json"
	$(BIN)/python -m tests.benchmarks $(ARGS)

faults: $(READY)  ## More faults than every test run makes: 100 killed loggers, 60 killed trainings, 1000 broken configs.
	SOWLOG_KILLS=100 SOWLOG_RESUMES=30 SOWLOG_BROKEN=1000 $(BIN)/python -m pytest -n 0 \
		tests/faults/test_kill.py tests/faults/test_resume_training.py tests/train/test_commands.py $(ARGS)

FUZZ ?= 20000
fuzz: $(READY)  ## Random compositions of transforms around sows, FUZZ of them; a failure prints how to reproduce it.
	SOWLOG_FUZZ=$(FUZZ) $(BIN)/python -m pytest --timeout 0 tests/sow/test_fuzz.py $(ARGS)

properties: $(READY)  ## More examples of every property than each test run tries: make properties ARGS=tests/reduce
	SOWLOG_EXAMPLES=500 $(BIN)/python -m pytest --timeout 0 $(ARGS)

docs: $(READY)  ## The pages of the documents, the guide and the public names: build/docs/index.html.
	rm -rf build/docs
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.support.docs build/docs

lint: $(READY)  ## Style, types, the import contracts, and the words of the text.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --warnings
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.voice

lock: $(READY)  ## Renew requirements.lock from pyproject.toml.
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--upgrade --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .cache

# pip installs uv from the hashed lock file, and uv the rest in a tenth of the time; pip does it where uv cannot, as
# behind a mirror that pip alone knows.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock || \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

$(FLOOR)/.ready: pyproject.toml | $(READY)
	$(PYTHON) -m venv --clear $(FLOOR)
	$(BIN)/uv pip install --quiet --python $(FLOOR)/bin/python --resolution lowest-direct \
		--editable '.[train,tensorboard,dev]'
	touch $@

$(NEWEST)/.ready: requirements.lock pyproject.toml | $(READY)
	$(NEWEST_PYTHON) -m venv --clear $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --no-deps --no-build-isolation --editable .
	touch $@
