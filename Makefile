# Everything a newcomer types. The first target that needs it makes .venv and installs into it, once.
# Another interpreter:   make PYTHON=python3.12 assistant

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.PHONY: assistant test lint fix bench docs clean

assistant: $(VENV)/.installed  ## From the embedded base model to an assistant, with a report.
	$(BIN)/posttrain quickstart

# As many processes as there are cores, but four at most; the tests of a file stay together and share what they prepare.
test: $(VENV)/.installed-dev  ## Every test.
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev  ## Style, format and types, changing nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev  ## Mend style and format where that can be done safely.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## Every benchmark; PEER=path/to/python of an environment with trl (benchmarks/README.md).
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/fuzz.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/new_tokens.py --steps 20 40
	$(BIN)/python benchmarks/sft.py --peer-python "$(PEER)"
	$(BIN)/python benchmarks/preference.py --peer-python "$(PEER)"
	$(BIN)/python benchmarks/sampler.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/grpo.py --peer-python "$(PEER)"

docs: $(VENV)/.installed-dev  ## Check what the documents promise: commands, keys, examples in docstrings.
	$(BIN)/python -m pytest -q tests/house/test_docs.py tests/house/test_options.py src

clean:  ## Remove the environment and caches; runs/ stays.
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "posttrain needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than what they were made from, so nothing is installed twice. The interpreter is order-only: its
# date is that of the system's Python and says nothing about this environment.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@
