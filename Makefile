# `make run` searches, `make test` tests, `make bench` compares us with our peers, `make soak` kills a study again and
# again, `make setup` only sets up `.venv`; a second call sets up nothing again.
PYTHON ?= python3
STUDY ?= sst2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup run test lint schema bench soak clean

setup: $(READY)

# Everything is pinned by constraints.txt; torch first, for its version decides which build comes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[offline,onnx,postgres,ray,dev]'
	touch $@

run: setup
	$(BIN)/python -m hpo.run --study $(STUDY) $(ARGS)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

schema: setup
	$(BIN)/python -m hpo.schema

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

soak: setup
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean:
	rm -rf $(VENV)
