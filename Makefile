# Two commands do it all on a fresh machine with Python >= 3.11, its headers and a C++ compiler: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types house unit slow native native-arm bench-engine bench-m4 bench-forecast bench-speech bench-translate bench-tatoeba bench-joey bench-memory pictures clean

help:           ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longshort needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train on the Mauna Loa CO2 record and forecast its last two years (two minutes)
	$(BIN)/python examples/demo.py

test: lint types house unit native  ## everything that CI asks for

lint: $(READY)  ## style, and whether README's tables are those of the results
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m benchmarks.table --check

types: $(READY) ## mypy --strict
	$(BIN)/mypy

house: $(READY) ## imports go down only
	$(BIN)/lint-imports

unit: $(READY)  ## all tests but the slow proofs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

slow: $(READY)  ## the slow proofs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

native: $(READY) ## the C++ on its own, under the address and undefined-behaviour sanitizers
	$(BIN)/cmake -S . -B build/check -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=Sanitize \
	  -DLONGSHORT_PYTHON=OFF -DLONGSHORT_TESTS=ON
	$(BIN)/cmake --build build/check
	$(BIN)/ctest --test-dir build/check --output-on-failure

native-arm: $(READY) ## the C++ for Arm, run by qemu: needs g++-aarch64-linux-gnu and qemu-user
	$(BIN)/cmake -S . -B build/arm -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCMAKE_EXE_LINKER_FLAGS=-static -DLONGSHORT_PYTHON=OFF -DLONGSHORT_TESTS=ON
	$(BIN)/cmake --build build/arm
	qemu-aarch64 build/arm/tests/native/check

bench-engine: $(READY) ## time the engine beside its rivals: JSON under benchmarks/results/, tables in README.md
	$(BIN)/python -m benchmarks.run engine && $(BIN)/python -m benchmarks.table

FREQ   ?= all
SEEDS  ?= 5
bench-m4: $(READY) ## forecast M4 from scratch and score it as M4 did; FREQ=yearly|weekly|hourly for a part of it
	$(BIN)/python -m benchmarks.m4 --freq $(FREQ) --seeds $(SEEDS) && $(BIN)/python -m benchmarks.table

bench-forecast: $(READY) ## one default configuration on Tourism, ETTh1 and Victorian electricity demand
	$(BIN)/python -m benchmarks.forecast --seeds $(SEEDS) && $(BIN)/python -m benchmarks.table

bench-speech: $(READY) ## train recognisers on AN4 and score them on its test part: hours
	$(BIN)/python -m benchmarks.speech --jobs 2 && $(BIN)/python -m benchmarks.table

bench-translate: $(READY) ## train translators on Multi30k and score them on its test parts: hours
	$(BIN)/python -m benchmarks.translate --jobs 2 && $(BIN)/python -m benchmarks.table

bench-tatoeba: $(READY) ## train on 167,000 pairs of Tatoeba, both directions, and score them on sentences apart: an hour or two
	$(BIN)/python -m benchmarks.tatoeba --jobs 2 && $(BIN)/python -m benchmarks.table

out/joey/bin/python: | $(READY)
	$(PYTHON) -m venv out/joey
	out/joey/bin/pip install joeynmt==2.3.0 importlib_metadata torch==$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')

bench-joey: $(READY) out/joey/bin/python ## time training beside JoeyNMT's LSTM of the same size, which is installed under out/
	$(BIN)/python -m benchmarks.joey && $(BIN)/python -m benchmarks.table

bench-memory: $(READY) ## what a recurrent net can remember: the experiments of 1997 and after (two hours on two cores)
	$(BIN)/longshort bench memory --results benchmarks/results --figure docs/memory.svg && $(BIN)/python -m benchmarks.table

pictures: $(READY) ## docs/*.webp: the page of longshort inspect, drawn by chromium
	$(BIN)/python docs/pictures.py

clean:          ## remove what was built here, with .venv and all of out/
	rm -rf $(VENV) build dist out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
