# Everything runs in .venv; `make demo` and `make test` need nothing but Python >= 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# two cores are enough for all targets; more threads only make small matrices slower
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow bench lint docs clean

demo: $(VENV)/.demo
	$(BIN)/sciinfer demo --out demo

# two workers, a file each: tests of one file share fixtures
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 1800

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(STAMP)
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# torch first and pinned: a bare requirement would fetch the newest build with its GPU libraries
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e ".[plots,datasets]"
	touch $@

$(STAMP): $(VENV)/.torch pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]" $(foreach p,$(wildcard plugins/*),-e $(p))
	touch $@ $(VENV)/.demo

clean:
	rm -rf demo run build docs/_build *.egg-info
