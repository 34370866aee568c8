# llamaherd: set-up, tests and demo. `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LAB := $(BIN)/python molecule/lab/lab.py

# Molecule and ansible call each other, pytest and pyinfra by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export MOLECULE_COMMAND_BORDERS := false
export DEBIAN_FRONTEND := noninteractive

.PHONY: help venv lint check unit-fleet unit-hosts test molecule molecule-cuda faults demo demo-clean lab-tools downloads bench bench-fit snapshots reference editor clean clean-cache

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## The project and its tools in .venv

# A virtual environment needs Debian's python3-venv where Python is Debian's.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'llamaherd needs Python 3.11 or newer: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(APT) python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: venv ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=molecule/lab $(BIN)/mypy --strict molecule/lab/*.py

check: venv ## The fast part of the tests: lint, types, unit tests, plans (under 90 s)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint unit-fleet unit-hosts

# Two halves of about the same length, for two cores.
FAST := $(BIN)/pytest --quiet -m 'not lab and not browser'
FLEET_TESTS := tests/fleet tests/lock tests/hub tests/common tests/contract tests/facts
unit-fleet: venv
	$(FAST) $(FLEET_TESTS)
unit-hosts: venv
	$(FAST) $(addprefix --ignore=,$(FLEET_TESTS)) tests

# The scenarios of Molecule run inside it: tests/lab/test_scenarios.py. The fast part goes on beside
# the lab, which often waits, and is shown when that is done.
test: lab-tools downloads lint ## Everything, on real systemd hosts (root; under 90 min)
	@log=$$(mktemp); fast=; trap 'kill $$fast 2>/dev/null; rm -f $$log' EXIT; \
	$(FAST) tests >$$log 2>&1 & fast=$$!; status=0; \
	$(BIN)/pytest -m 'lab or browser' || status=$$?; \
	wait $$fast || status=$$?; fast=; cat $$log; exit $$status

molecule: lab-tools downloads ## Only Molecule's default scenario
	$(BIN)/molecule test

molecule-cuda: lab-tools downloads ## llama.cpp's CUDA backend compiled whole, without a GPU (slow)
	$(BIN)/molecule test -s cuda

faults: lab-tools downloads ## Break a host in every way, into docs/reliability.md (about 30 min)
	$(BIN)/pytest --quiet --faults=all --write-faults tests/faults

demo: lab-tools downloads ## The main job on a throw-away host; KEEP=1 leaves it up
	@exec $(BIN)/python molecule/lab/demo.py $(if $(KEEP),--keep)

demo-clean: ## Remove the host that `make demo KEEP=1` left
	@$(LAB) destroy demo --missing-ok

APT := apt-get install --yes --quiet --no-install-recommends
TOOLS := systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ip:iproute2 nft:nftables gpg:gpg \
    ssh:openssh-client unshare:util-linux mount:mount ps:procps unzip:unzip openssl:openssl curl:curl \
    systemd-analyze:systemd \
    npm:npm chromium:chromium chromedriver:chromium-driver

lab-tools: ## What lab hosts need from this machine's own packages (root)
	@missing=(); for tool in $(TOOLS); do \
	    command -v "$${tool%%:*}" >/dev/null || missing+=("$${tool##*:}"); done; \
	if [ "$${#missing[@]}" -gt 0 ]; then \
	    echo "installing $${missing[*]}"; apt-get update --quiet && $(APT) "$${missing[@]}"; fi

downloads: venv ## The model and the source archive that labs use
	@$(BIN)/python molecule/lab/downloads.py >/dev/null

# The lab's part needs root, as tests do. One that misses its budget makes the whole exit 1, at the end.
BENCHMARKS := load_fleet drift_scale noop_converge download
bench: lab-tools downloads ## What a check costs, into docs/performance.md
	@missed=; for name in $(BENCHMARKS); do \
	    echo "$$name"; $(BIN)/python benchmarks/$$name.py --write || missed="$$missed $$name"; done; \
	[ -z "$$missed" ] || { echo "missed its budget:$$missed" >&2; exit 1; }

snapshots: venv ## What bare hosts of each distribution are told, into tests/cuda/snapshots/
	LLAMAHERD_UPDATE_SNAPSHOTS=1 $(BIN)/pytest -q tests/cuda/test_cuda_snapshots.py

reference: venv ## docs/reference.md and its kin, from the schemas
	$(BIN)/python -m schemas.reference

editor: lab-tools venv ## What editors show, into docs/editor.md (fetches a server from npm)
	$(BIN)/python tests/editor/language_server.py

# A llama-fit-params that runs here: make bench-fit BINARY=.../llama-fit-params. Three more answer
# more questions: RPC_SERVER=.../ggml-rpc-server (of the same build, made with GGML_RPC),
# SERVER=.../llama-server, GGUF_PARSER=.../gguf-parser; what isn't asked stays as recorded.
BINARY ?= llama-fit-params
MORE = $(if $(RPC_SERVER),--rpc-server $(RPC_SERVER)) $(if $(SERVER),--server $(SERVER)) \
    $(if $(GGUF_PARSER),--gguf-parser $(GGUF_PARSER))
bench-fit: venv ## Sizing against llama.cpp's own, into docs/sizing.md (BINARY=llama-fit-params)
	$(BIN)/python benchmarks/fit.py --binary $(BINARY) $(MORE) --write

clean: ## Lab hosts, virtual environment and whatever tools left here; the cache stays
	@if [ -x $(BIN)/python ] && [ -d .lab ]; then for state in .lab/*/lab.json; do \
	    [ ! -e "$$state" ] || $(LAB) destroy "$$(basename "$$(dirname "$$state")")"; done; fi
	rm -rf .lab $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f inventories/demo.lock.yaml molecule/*/fleet.lock.yaml pyinfra-debug.log

clean-cache: ## Base roots, packages, downloads and compiler output kept for the next lab
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/llamaherd/lab"
