# Needs Python 3.11 or newer with pip and venv, and make; everything else is installed into .venv.
#   make demo    install, then carry a real Caffe network through the whole job
#   make test    install, then run every test (ARGS='-k conv' is passed on to pytest)
#   make lint    check style, format and types
#   make bench   time conversions as whole processes
#   make lock    renew constraints.txt from the newest releases that pyproject.toml allows
#   make clean   remove .venv, caches and builds

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

.PHONY: demo test lint bench lock clean

demo: .venv/.installed-all
	$(BIN)/demitasse demo $(ARGS)

test: .venv/.installed-test
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/.installed-all
	$(BIN)/python benchmarks/run.py $(ARGS)

# A stamp is as new as the last install with those extras, so that nothing is installed twice.
.venv/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[all]'
	touch $@

.venv/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[all,test]'
	touch $@ .venv/.installed-all

.venv/.installed-lint: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[lint,test]'
	touch $@

# A virtual environment that was begun and not finished must not pass for one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Demitasse needs Python 3.11 or newer; name one with: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

lock:
	PYTHON='$(PYTHON)' sh .ci/lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find converters models validation tests -name __pycache__ -type d -prune -exec rm -rf {} +
