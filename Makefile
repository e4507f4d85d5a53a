# Every target first makes .venv from requirements.lock, when it is missing or older than the lock: nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow lint docs figures bench lock clean

demo: $(STAMP)             ## known-truth log -> sweep -> fit -> report in out/demo
	$(BIN)/sessionrec demo --out out/demo

test: $(STAMP)
	$(BIN)/pytest

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

lint: $(STAMP)             ## style, and types of the rooms that [tool.pyright] of pyproject.toml lists
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(STAMP)             ## the documentation site in out/site; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs out/site

figures: $(STAMP)          ## draws the figures of the documents again
	$(BIN)/python -m docs.figures

bench: $(STAMP)            ## one JSON line a question; see benchmarks/
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || [ $$? = 2 ] || exit 1; done

lock:                      ## after a change of pyproject.toml (needs uv)
	uv pip compile -q --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --extra dev \
	  --no-header --no-annotate -o requirements.lock pyproject.toml

clean:
	rm -rf .venv out build docs/made *.egg-info

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(STAMP)
