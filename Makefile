# PYTHON   the Python to make the environment with, 3.11 or newer
# VENV     where to make it: one path without spaces
# BENCH    options for the benchmarks, such as --quick
#
# On Linux an index may offer torch in a build for CUDA, of several gigabytes. For the build for the CPU, set
# PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to an index that has it before the first `make`.

PYTHON ?= python3
VENV ?= .venv
ifneq ($(words $(VENV)),1)
$(error VENV is "$(VENV)", which is not one path without spaces)
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINNED := pyproject.toml constraints.txt
RUN := runs/nano
BENCHMARKS := startup scaling train decode serve rl_step time_to_reward

.DEFAULT_GOAL := help
.PHONY: help demo claims test clients page lint survival bench clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PYTHON=python3.12 chooses a Python. If pip wants to fetch CUDA packages that you do not need, point"
	@echo "PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to an index that has torch for the CPU."

demo: $(VENV)/core.stamp ## train the nano model on this machine, and report on it
	@if [ -e $(RUN)/run.json ]; then $(BIN)/steep resume $(RUN); else $(BIN)/steep train recipes/nano.py; fi
	@$(BIN)/steep report $(RUN)
	@echo
	@echo "Go on with:"
	@echo "  $(BIN)/steep report $(RUN) --open"
	@echo "  $(BIN)/steep chat $(RUN)"
	@echo "  $(BIN)/steep eval $(RUN) --task countdown --budgets 0,64,256"

claims: $(VENV)/core.stamp ## train three seeds and their control arms, and hold them to their bars: some three and a half hours
	@$(BIN)/steep train recipes/nano_claims.py

test: $(VENV)/dev.stamp ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clients: $(VENV)/dev.stamp ## run litellm, inspect-ai, lm-eval and schemathesis against the server: fetches 1 GB, once
	@$(BIN)/python -m benchmarks.rivals clients
	@$(BIN)/python -m pytest tests/server/test_clients.py

page: ## build the pages from web/: needs Node 20.19 or newer
	npm --prefix web ci
	npm --prefix web run build

lint: $(VENV)/dev.stamp ## check style, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

survival: $(VENV)/core.stamp ## kill runs, damage checkpoints, fill disks, and count what is survived
	@$(BIN)/python -m benchmarks.survival

bench: $(VENV)/core.stamp ## measure steep against other programs, on cores that do nothing else
	@$(BIN)/python -m benchmarks.rivals
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(BENCH) || exit 1; done
	@$(BIN)/python -m benchmarks.tables

clean: ## delete the environment and what the tools cached; runs stay
	@if [ -e $(VENV)/made.stamp ]; then echo "rm -rf $(VENV)"; rm -rf $(VENV); \
		elif [ -e $(VENV) ]; then echo "$(VENV) stays, for it was not made here"; fi
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "steep needs Python 3.11 or newer, and $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
		exit 1; }
	@new=$$([ -e $(VENV) ] || echo $(VENV)); $(PYTHON) -m venv $(VENV) || { \
		rm -rf $@ $$new; echo "$(PYTHON) cannot make environments: on Debian, apt install python3-venv"; exit 1; }
	@touch $(VENV)/made.stamp

$(VENV)/core.stamp: $(PINNED) | $(VENV)/bin/python
	@echo "installing steep into $(VENV); this takes some minutes, once"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(PINNED) | $(VENV)/bin/python
	@echo "installing steep and its [dev] extra into $(VENV); this takes some minutes, once"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/core.stamp
