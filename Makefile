# Two commands are all that is needed: `make run` and `make test`. Both build what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait most of the time, so three share two cores. The virtual machines are in one of them.
SIDE_BY_SIDE := --numprocesses=3 --dist=loadscope --no-loadscope-reorder --durations=25
# Without pip's own version check: it asks the network, and says nothing of use here.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: run test test-all check unit integration hostile e2e node-shell bench wheel clean help

help:
	@echo "make run          the daemon on an example node below .run/; no root, no etcd"
	@echo "make test         every capability once, with its real component; static checks"
	@echo "make test-all     the matrices as well: versions, faults, points to crash at"
	@echo "make check        ruff, mypy, import contracts, unit tests: the quick round"
	@echo "make integration  against real etcds, processes, a real systemd in a container"
	@echo "make hostile      as an attacker on the node would, and with what others leave lying about"
	@echo "make e2e          a real node in a virtual machine (make node-shell: a shell there), and"
	@echo "                  the real Backend.AI agent, of both lines"
	@echo "make walk         a random walk with faults; MINUTES=60 STORE=single|three|guarded SEED=7"
	@echo "make fuzz         edits of agent.toml, documents and texts, made up; EXAMPLES=100000 SEED=7"
	@echo "make bench        speed and memory, as ratios"

run: $(VENV)/.installed
	@$(BIN)/python examples/run.py

test: ONLY := -m "not matrix"
test test-all: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ONLY) \
	  tests/unit tests/integration tests/hostile tests/walk tests/e2e

check: $(VENV)/.tested lint unit

.PHONY: lint
lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.tested
	$(BIN)/python -m pytest tests/unit

integration: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	$(BIN)/python -m pytest tests/integration

hostile: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	$(BIN)/python -m pytest tests/hostile

e2e: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/e2e

node-shell: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	@cd tests && ../$(BIN)/python -m e2e.lab shell

MINUTES ?= 10
STORE ?= single
.PHONY: walk
walk: $(VENV)/.tested
	@$(BIN)/python tests/packages.py
	@cd tests && $(CURDIR)/$(BIN)/python -m walk --minutes $(MINUTES) --store $(STORE) \
	  $(if $(SEED),--seed $(SEED))

EXAMPLES ?= 10000
FUZZERS := test_agent_toml.py test_desired_fuzz.py test_desired_values.py test_text.py
.PHONY: fuzz
fuzz: $(VENV)/.tested
	BAI_TEST_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest $(if $(SEED),--hypothesis-seed=$(SEED)) \
	  $(addprefix tests/unit/,$(FUZZERS))

bench: $(VENV)/.tested
	@for each in bench/*.py; do $(BIN)/python $$each || exit 1; done

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) .run .lab dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bai-nodeagent needs Python 3.11 or later; say which: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) can't make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what the daemon needs into $(VENV) (once)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) --editable '.[dev]'
	@touch $@
