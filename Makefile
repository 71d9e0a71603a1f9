# Holdfast: everything a person or a build machine runs. `make help` lists the targets.
#
# One environment, .venv, from hash-pinned lock files (requirements/*.txt, made by `make lock`).
# Stamps in it say how far it is made: .demo (what `make demo` needs), .project (holdfast itself), .dev (the tests' tools).
# A changed lock makes the environment anew.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
# Options for `holdfast demo`, e.g. DEMO_ARGS="--headless --json demo.json".
DEMO_ARGS ?=
# Options for pytest, e.g. PYTEST_ARGS="tests/test_cli.py -x".
PYTEST_ARGS ?=
# How many test processes; 0 runs them in this one (for a debugger).
TEST_WORKERS ?= 3
# HOLDFAST_APT=0 keeps `make test` from installing Debian packages.
HOLDFAST_APT ?= 1
DEBIAN_PACKAGES := mosquitto chromium systemd

.DEFAULT_GOAL := help
# What `make install` makes, and where.
ROLE ?= node
PREFIX ?= /opt/holdfast
DESTDIR ?=
INSTALL_ENV ?= 1
PROFILE ?= node

.PHONY: help demo test test-train lint bench docs-check lock packages train-env node-install install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.project ## the main job, end to end, on this machine (DEMO_ARGS="--headless --json demo.json")
	@$(BIN)/holdfast demo $(DEMO_ARGS)

test: $(VENV)/.dev packages lint ## lint and all tests; the count of tests closes the output
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

test-train: $(VENV)/.dev ## the tests that train networks, which `make test` skips by name (five minutes)
	@HOLDFAST_TRAIN_TESTS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m train $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev packages ## measure speeds and sizes; writes bench.json
	@$(BIN)/python tests/bench/run.py

docs-check: $(VENV)/.dev ## links, commands and names in the documents
	@$(BIN)/python -m pytest tests/test_docs.py tests/test_architecture.py

# --- the environment -------------------------------------------------------------------------------

$(VENV)/.demo: requirements/build.txt requirements/cloud.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "No '$(PYTHON)' here. Holdfast needs Python 3.11 or later: install it, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Holdfast needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make environments: its venv or ensurepip module is missing. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V) (about half a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/cloud.txt
	@touch $@

$(VENV)/.project: $(VENV)/.demo pyproject.toml setup.py
	@rm -rf *.egg-info  # a stale one would be read before the installed one
	@PYTHONWARNINGS=ignore $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.project requirements/dev.txt
	@echo "Adding the tools of the tests to $(VENV)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

train-env: $(VENV)/.project ## add what trains and evaluates the valuation model (1.5 GB) to .venv
	@$(PIP) install --require-hashes -r requirements/train.txt

packages:
	@if [ "$(HOLDFAST_APT)" = 0 ]; then echo "Debian packages: not installed (HOLDFAST_APT=0)"; exit 0; fi; \
	missing=; for p in $(DEBIAN_PACKAGES); do dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	[ -n "$$missing" ] || exit 0; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	if command -v apt-get >/dev/null && { [ -z "$$sudo" ] || $$sudo true 2>/dev/null; }; then \
	  echo "Debian packages: installing$$missing"; \
	  { $$sudo apt-get -qq update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; } >/dev/null 2>&1 \
	    || echo "Debian packages: could not install$$missing; the tests that want them are skipped"; \
	else echo "Debian packages: no right to install$$missing; the tests that want them are skipped"; fi

# --- a node ----------------------------------------------------------------------------------------

node-install: $(VENV)/.project ## what a node gets, in an environment of its own (DEST=/opt/holdfast, VALUE=1 adds on-node valuation)
	@[ -n "$(DEST)" ] || { echo "Say where: make node-install DEST=/opt/holdfast"; exit 2; }
	@rm -rf build/$(PROFILE) build/lib build/bdist.* && mkdir -p build/$(PROFILE)
	@HOLDFAST_PROFILE=$(PROFILE) $(PIP) wheel --no-deps --no-build-isolation -w build/$(PROFILE) .
	@rm -rf *.egg-info
	@$(PYTHON) -m venv --without-pip $(DEST)
	@$(PIP) --python $(DEST)/bin/python install --require-hashes -r requirements/$(if $(filter full,$(PROFILE)),cloud,$(if $(VALUE),value,node)).txt
	@$(PIP) --python $(DEST)/bin/python install --no-deps --force-reinstall build/$(PROFILE)/holdfast-*.whl
	@# Libraries ship their own tests (numpy alone 17 MB); a node has no use for them.
	@find $(DEST)/lib -name tests -type d -path '*/site-packages/*' -prune -exec rm -rf {} +

# DESTDIR: a staging root, in which nothing is started and no user made. INSTALL_ENV=0 leaves the environment out.
install: ## a supervised node or cloud: environment, units, users (ROLE=node, cloud or all; PREFIX, DESTDIR)
ifneq ($(INSTALL_ENV),0)
	@$(PYTHON) -c 'import os, sys; sys.exit(os.path.realpath(sys._base_executable).split("/")[1] in ("root", "home"))' || { \
	  echo "'$(PYTHON)' lies in somebody's home, which the units cannot read: make $(MAKECMDGOALS) PYTHON=/usr/bin/python3"; exit 2; }
	@$(MAKE) --no-print-directory node-install DEST=$(DESTDIR)$(PREFIX) PROFILE=$(if $(filter node,$(ROLE)),node,full)
endif
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' ROLE='$(ROLE)' sh systemd/install.sh install

uninstall: ## remove what `make install` installed; configuration, keys and data stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' sh systemd/install.sh uninstall

# --- locks -----------------------------------------------------------------------------------------

UV ?= $(shell command -v uv || echo $(BIN)/uv)
COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements/constraints.in

lock: ## compile requirements/*.txt from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: $(BIN)/pip install uv"; exit 1; }
	@mkdir -p build
	@$(COMPILE) pyproject.toml --extra value --extra cloud --extra train --extra dev -o build/all.txt
	@$(COMPILE) requirements/build.in -o requirements/build.txt
	@$(COMPILE) pyproject.toml -c build/all.txt -o requirements/node.txt
	@for extra in value cloud train dev; do $(COMPILE) pyproject.toml --extra $$extra -c build/all.txt -o requirements/$$extra.txt; done

clean: ## remove the environment, caches and results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-state demo-evidence demo*.json bench*.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
