# make demo    trains, streams and compares the three methods of Bi-flow into out/demo, in about 8 minutes on a laptop
# make test    installs what the tests need, and runs them

PYTHON ?= python3
VENV ?= .venv

demo: $(VENV)/installed
	$(VENV)/bin/jvflow demo --out=out/demo

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@

.PHONY: demo test
