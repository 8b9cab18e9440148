# `make help` lists the targets. Each target creates the environment if it is missing.

SHELL := bash
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.uml-dist-installed

# If VENV names an environment in which our packages can already be imported, it is used unchanged.
ifneq ($(origin VENV),file)
ifeq ($(shell cd / && test -x "$(BIN)/python" && "$(BIN)/python" -c "import uml_shards, uml_dist" 2>&1 && echo yes),yes)
STAMP :=
endif
endif

export PATH := $(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help install demo shards ablation bench bench-static bench-errors bench-micro bench-distances bench-step \
    bench-ugmcl-step bench-collab-memory bench-checkpoint bench-windows bench-predict bench-shards bench-deviations \
    bench-quality bench-scale bench-guards tune gpu-check cluster-check monitor test test-quick test-kernels \
    test-triton test-distributed test-conversion test-real chaos fuzz lint format clean

DATASET ?= phantom
OUT ?= data/shards/$(DATASET)
RAW ?=
SIZE ?=
ARGS ?=
TRITONS ?= 3.6.0 3.7.1 3.9.0
BENCH := PYTHONPATH=kernels:kernels/bench:tests/support

help: ## list the targets
	@echo "make TARGET [VENV=.venv] [PYTHON=python3]: VENV= is an environment, PYTHON= an interpreter"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create the environment with the pinned versions (every target does this)

demo: $(STAMP) ## make shards of generated images, train on 2 workers and evaluate, within 8 minutes
	$(BIN)/python launchers/demo.py $(ARGS)

shards: $(STAMP) ## make shards: DATASET=isic2017 RAW=folder [OUT=folder] [SIZE=256] [ARGS=...]; default: the phantom
	@if [ -n "$(filter phantom phantom3d phantom_fundus,$(DATASET))" ] && [ -f "$(OUT)/test/manifest.json" ] && [ -z "$(SIZE)$(ARGS)" ]; then \
	    echo "$(OUT) already contains the shards of $(DATASET); remove that folder to rebuild them"; \
	else \
	    set -x; $(BIN)/python launchers/shards.py make --dataset $(DATASET) --out "$(OUT)" \
	        $(if $(RAW),--raw "$(RAW)") $(if $(SIZE),--size $(SIZE)) $(ARGS); \
	fi

bench: $(STAMP) ## compare UML's loss on the CPU with torch operations: time, memory, compilation
	$(BENCH) $(BIN)/python kernels/bench/cpu.py $(ARGS)

bench-static: $(STAMP) ## show registers, spills and instructions of every compiled kernel; needs no GPU
	$(BENCH) $(BIN)/python kernels/bench/static.py $(ARGS)

bench-errors: $(STAMP) ## plot the float32 errors of the loss against the evidence
	$(BENCH) $(BIN)/python kernels/bench/errors.py $(ARGS)

bench-micro: $(STAMP) ## compare every kernel with torch operations
	$(BENCH) $(BIN)/python kernels/bench/micro.py $(ARGS)

bench-distances: $(STAMP) ## compare distance maps with SciPy's: largest difference, and time by shape and batch
	$(BENCH) $(BIN)/python kernels/bench/distances.py $(ARGS)

bench-shards: $(STAMP) ## compare samples/s per core with stock webdataset; resume and index of a million samples: ARGS="--shards FOLDER"
	$(BIN)/python shards/bench/reading.py $(ARGS)

bench-step: $(STAMP) ## compare time and memory of a training step with the published network: table, CSV and PNG in runs/bench
	PYTHONPATH=tests/support $(BIN)/python launchers/bench/step.py $(ARGS)

bench-windows: $(STAMP) ## compare windows per second of a sliding-window prediction with MONAI's
	$(BIN)/python launchers/bench/windows.py $(ARGS)

bench-predict: $(STAMP) ## measure cases per second and memory of predict.py beside evaluate.py: table and CSV in runs/bench
	$(BIN)/python launchers/bench/prediction.py $(ARGS)

bench-ugmcl-step: $(STAMP) ## measure the parts of a training step of UG-MCL, by method and precision: table and CSV in runs/bench
	$(BIN)/python launchers/bench/ugmcl_step.py $(ARGS)

bench-collab-memory: $(STAMP) ## measure the memory of each network of collab for each image, before and after restructuring
	$(BIN)/python launchers/bench/collab_memory.py $(ARGS)

bench-checkpoint: $(STAMP) ## measure for how long a checkpoint stops training, beside torch's asynchronous save: table and CSV in runs/bench
	$(BIN)/python launchers/bench/checkpoint_stall.py $(ARGS)

bench-guards: $(STAMP) ## measure what watchdog, guards and canary cost a training step: table and CSV in runs/bench
	$(BIN)/python launchers/bench/guards.py $(ARGS)

bench-scale: $(STAMP) ## measure index, start and memory of large trainings, and the model of --dry-run --gpus: CSV in runs/bench
	$(BIN)/python launchers/bench/scale.py $(ARGS)

bench-deviations: $(STAMP) ## measure how each difference from the authors' network changes UML's outputs
	PYTHONPATH=tests/support $(BIN)/python launchers/bench/deviations.py $(ARGS)

bench-quality: $(STAMP) ## compare UML with a plain U-Net over several seeds: table, CSV and PNG in runs/bench/quality
	$(BIN)/python launchers/bench/quality.py $(ARGS)

ablation: $(STAMP) ## compare the arms of UG-MCL over several seeds, on any shards: tables, CSV and PNG in runs/bench/ablation
	$(BIN)/python launchers/bench/ablation.py $(ARGS)

tune: $(STAMP) ## measure the rows of uml_kernels/table.py on a GPU
	$(BENCH) $(BIN)/python kernels/bench/tune.py $(ARGS)

gpu-check: ## run all checks that need a GPU, in 9 minutes, with PYTHON= (torch and triton); ARGS=--rehearse: without a GPU
	$(BENCH)$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) kernels/bench/gpu_check.py $(ARGS)

cluster-check: $(STAMP) ## check ZeRO stages, all-reduce, resume and images/s on your GPUs, or with ARGS=--cpu on 4 CPU processes
	$(BIN)/python launchers/cluster_check.py $(ARGS)

monitor: $(STAMP) ## start Prometheus, and with Docker also Grafana, on the current runs and print the addresses; Ctrl-C stops
	$(BIN)/python launchers/monitor.py $(ARGS)

test: lint test-kernels test-quick test-distributed ## lint and all tests except those on real images, quick ones first

# Tests of one process share the cores. Those of several processes wait for one another much of the time, so two files of
# them share the cores, too.
SHARED := OMP_NUM_THREADS=1
PARALLEL := -n auto --maxprocesses 4
IN_PAIRS := -n 2 --dist loadfile

test-kernels: $(STAMP) ## test the kernels in Triton's interpreter on the CPU
	$(SHARED) TRITON_INTERPRET=1 $(BIN)/python -m pytest $(PARALLEL) tests/kernels $(ARGS)

test-triton: $(STAMP) ## test the kernels, interpreted and compiled, with each version of Triton in TRITONS=
	@for version in $(TRITONS); do \
	    echo "Triton $$version"; site=build/triton-$$version; \
	    [ -d $$site ] || $(BIN)/python -m pip install --quiet --no-deps --target $$site triton==$$version || exit 1; \
	    PYTHONPATH=$$site TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/kernels || exit 1; \
	    PYTHONPATH=$$site $(BIN)/python -m pytest -q tests/kernels/test_compile.py || exit 1; \
	done

test-quick: $(STAMP) ## run the single-process tests
	$(SHARED) $(BIN)/python -m pytest $(PARALLEL) -m "not distributed and not launch and not real and not conversion and not chaos" $(ARGS)

test-distributed: $(STAMP) ## run the multi-process tests, and those that start the launcher
	$(BIN)/python -m pytest $(IN_PAIRS) -m "(distributed or launch) and not real and not chaos" $(ARGS)

test-conversion: $(STAMP) ## export every recipe as ONNX and as a program of torch.export, and compare with PyTorch
	$(BIN)/python -m pytest -m conversion $(ARGS)

test-real: $(STAMP) ## run the tests on real images, in the folder named by UML_REAL_DATA
	$(BIN)/python -m pytest -m real $(ARGS)

chaos: $(STAMP) ## make everything fail: all tests of faults, then random kills of each recipe; ARGS="--kills 5"
	$(BIN)/python -m pytest -m fault
	PYTHONPATH=tests/support $(BIN)/python launchers/bench/chaos.py $(ARGS)

fuzz: $(STAMP) ## read thousands of damaged files of every kind; table of outcomes; ARGS="--inputs 20000 --seed 1"
	$(BIN)/python tests/fuzz.py $(ARGS)

lint: $(STAMP) ## ruff, its formatter, pyright, the direction of imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP) ## fix and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build products, but keep data, runs and the environment
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find uml_dist kernels shards launchers tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.uml-dist-installed: pyproject.toml $(CONSTRAINTS)
	@[ -x "$(BIN)/python" ] || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is not Python 3.11 or newer: choose one, such as make PYTHON=python3.12" >&2; exit 2; }
	[ -x "$(BIN)/python" ] || $(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@
