# Each target does all of its own set-up: a virtual environment in .venv, then the package in it.
VENV := .venv
PYTHON ?= python3
# Of an activated environment that is about to be made anew, the Python that it was made with.
ifneq ($(filter $(abspath $(VENV))/%,$(abspath $(shell command -v $(PYTHON)))),)
PYTHON := $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)')
endif
CUDA ?= cuda12
BIN := $(VENV)/bin
PIP := $(PYTHON) -m pip --python $(BIN)/python
QUIET := --quiet --disable-pip-version-check

.PHONY: help run test test-all test-cupy test-gpu torture fuzz lint docs gallery bench clean

help:
	@echo "make run    set up, train Yin-Yang, write a report (ARGS='training.epochs=20 replicas=10' overrides)"
	@echo "make test   set up, run the tests"
	@echo "make test-all  the slow ones too"
	@echo "make test-cupy  what CuPy makes of our kernels, without a device (Linux)"
	@echo "make test-gpu  those that need a CUDA device (CUDA=cuda13 for a driver of that generation)"
	@echo "make torture  kills, full disks, damaged files: what must hold before a release, in a quarter of an hour"
	@echo "make fuzz   10^6 random problems on every backend against the oracle, in a quarter of an hour"
	@echo "make lint   format, lint and type checks"
	@echo "make docs   the documentation as a site, in build/site"
	@echo "make gallery  the notebooks, in JupyterLab"
	@echo "make bench  the kernel benchmark"

# A broken or half-made environment has no stamp and is made anew. uv installs what pip takes 5 s longer for, and comes by
# pip, with what pip is told of indexes and constraints; where uv does not succeed, pip does it. Compiling all that is
# installed to bytecode takes 9 s; Python compiles the part that a command imports when it does. An environment gets a pip
# of its own with the rest.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gpuspike needs Python 3.11 or newer, got `$(PYTHON) --version 2>&1`; try make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV), some 10 s"
	@if $(PYTHON) -c 'import sys, pip; sys.exit([*map(int, pip.__version__.split(".")[:2])] < [22, 3])' 2>/dev/null; then \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		{ options=`$(PYTHON) scripts/uv_options.py 2>/dev/null` && \
		$(PIP) install $(QUIET) --no-compile uv 2>/dev/null && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python $$options pip --editable . 2>/dev/null || \
		$(PIP) install $(QUIET) --no-compile pip --editable .; } \
	else \
		$(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install $(QUIET) --no-compile --editable .; \
	fi
	@touch $@

# What an extra of the package needs, by uv where it succeeds: pip takes a minute where uv takes seconds.
define extra
	@{ options=`$(PYTHON) scripts/uv_options.py 2>/dev/null` && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python $$options --editable '.[$(1)]' 2>/dev/null; } || \
	$(BIN)/python -m pip install $(QUIET) --editable '.[$(1)]'
endef

$(VENV)/.dev: $(VENV)/.run
	$(call extra,dev)
	@touch $@

run: $(VENV)/.run
	$(BIN)/gpuspike-train $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not gpu" $(ARGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not gpu" $(ARGS)

# What CuPy writes around our operations, compiled without a device. CuPy lies in a folder of its own: beside the package it
# would be asked for devices by every command.
$(VENV)/.cupy: $(VENV)/.dev
	$(BIN)/python -m pip install $(QUIET) --upgrade --no-deps --target $(VENV)/cupy \
		'cupy-cuda12x>=13.4' cuda-pathfinder fastrlock nvidia-cuda-runtime-cu12
	@touch $@

test-cupy: $(VENV)/.cupy
	PYTHONPATH=$(VENV)/cupy $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not gpu" -k cupy tests/cuda $(ARGS)

# For a machine with a CUDA device, whose driver says which of the extras cuda12 and cuda13 it needs.
test-gpu: $(VENV)/.dev
	$(call extra,$(CUDA))
	$(BIN)/python -m pytest -m gpu --require-gpu $(ARGS)

torture: $(VENV)/.dev
	$(BIN)/python scripts/torture.py $(ARGS)

fuzz: $(VENV)/.dev
	$(BIN)/python scripts/fuzz.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/.docs: $(VENV)/.run
	$(call extra,docs)
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open build/site/index.html"

$(VENV)/.gallery: $(VENV)/.run
	$(call extra,notebooks)
	@touch $@

gallery: $(VENV)/.gallery
	$(BIN)/jupyter lab docs/gallery

bench: $(VENV)/.dev
	$(BIN)/python scripts/benchmark.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
