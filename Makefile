# make test    everything: what is needed gets installed (Debian, Ubuntu; as root), then lint, unit, kernel, lab
# make demo    two hosts, a connection, a move
# make stories    the lab's long stories: packaged programs through five moves, daemons, movers and charons killed in the middle
# make programs-full    the lab's file transfers with packaged programs, 500 MB each
# make connections-full    2,000 connections move together
# make soak    2,000 moves with faults of every kind, from a seed (SWANROAM_SEED=N repeats one), 1,000 under load, 100 by migrate; hours
# make test-ansible    the role of ansible/, run by ansible-playbook on lab hosts
# make bench   what a move costs, against MOBIKE and against doing nothing; BENCH_ARGS='--repetitions 1' (an hour)
# make fuzz    a million random inputs each for parser, protocol core and kernel codecs; FUZZ_ARGS='--seed 7 core'
# make thorough    the unit tests with a hundred times as much generated input
# make mutations    defences are switched off one at a time, and a test has to fail (minutes); mutations-lab: those that need the lab
# make requirements    docs/requirements.md from what the tests and these left
# make monitoring    alert rules, dashboard and metrics by Prometheus' own promtool, which it installs (100 MB)
# make docs   what of docs/ is made of the code: the reference of the configuration, the JSON Schemas, the table of metrics
# make deb     dist/swanroam_VERSION_all.deb, for Debian 12 and 13 and Ubuntu 24.04
# make test-deb    it is installed, upgraded and removed in roots of Debian 12 and 13, its hooks under their real callers, its unit under a
#                  booted systemd in a guest kernel (a quarter of an hour)
# make test-docker    the demo of docker/, with this machine's engine and kernel or both in a guest kernel (minutes)
# make lint | unit | kernel | lab        one part of it; LAB_ARGS='-k soft' goes to pytest
# make clean   removes what these made

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := test

PYTHON ?= python3
# Guest kernels, and processes for unit tests, at the same time; each has one CPU.
GUESTS ?= $(shell n=$$(nproc); echo $$((n < 2 ? n : 2)))
LAB_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
RESULTS := .test-results
outcomes := lab-outcomes.json stories-outcomes.json mutations-lab.json mutations.json

python := .venv/bin/python
pytest := $(python) -m pytest -p no:cacheprovider -p lab.shards -q
installed := .venv/.stamp-installed

export PYTHONPATH := $(CURDIR)/tests:$(CURDIR)/controller

.PHONY: test lint unit kernel lab mutations mutations-lab requirements stories fuzz thorough demo bench programs-full
.PHONY: connections-full soak monitoring packages docs totals clean deb test-deb test-docker test-ansible

test: lint unit kernel lab totals

packages:
	@PYTHON=$(PYTHON) tests/install-packages

$(installed): pyproject.toml | packages
	@test -x $(python) || { rm -rf .venv && $(PYTHON) -m venv .venv; }
	$(python) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

lint: $(installed)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# Parts that leave a record of their results; an old record must not be taken for a new one.
unit: $(installed)
	@mkdir -p $(RESULTS) && rm -f $(RESULTS)/unit.json
	SWANROAM_SUMMARY=$(RESULTS)/unit.json $(pytest) -n $(GUESTS) --dist loadfile -m 'not kernel and not lab' tests/unit

kernel: $(installed) | packages
	@mkdir -p $(RESULTS) && rm -f $(RESULTS)/kernel.json
	SWANROAM_SUMMARY=$(RESULTS)/kernel.json $(pytest) -m 'kernel and not lab and not ansible' tests/kernel

lab: $(installed) | packages
	@mkdir -p $(RESULTS) && rm -f $(RESULTS)/lab.json
	tests/run-lab --guests $(GUESTS) --summary $(RESULTS)/lab.json --outcomes $(RESULTS)/lab-outcomes.json --keep $(RESULTS)/artifacts $(LAB_ARGS)

# MUTATIONS='name name' chooses some.
mutations: $(installed) | packages
	@mkdir -p $(RESULTS)
	@$(python) -m mutations.runs native $(RESULTS)/mutations.json $(MUTATIONS)

mutations-lab: $(installed) | packages
	@mkdir -p $(RESULTS)
	@tests/run-lab --outcomes $(RESULTS)/mutations-lab.json --exec $(CURDIR)/$(python) -m mutations.runs lab $(MUTATIONS)

requirements: $(installed)
	@$(python) -m mutations.table $(addprefix $(RESULTS)/,$(outcomes))

docs: $(installed)
	@$(python) -m documentation

totals:
	@$(python) -m lab.totals $(RESULTS)/unit.json $(RESULTS)/kernel.json $(RESULTS)/lab.json

fuzz: $(installed)
	@$(python) -m fuzz $(FUZZ_ARGS)

thorough: $(installed)
	SWANROAM_EXAMPLES=thorough $(pytest) -m 'not kernel and not lab' tests/unit --timeout 0

demo: $(installed) | packages
	@$(python) -m lab.guest --exec $(CURDIR)/$(python) -m lab.demo

stories: $(installed) | packages
	@mkdir -p $(RESULTS)
	tests/run-lab --guests $(GUESTS) -m long --outcomes $(RESULTS)/stories-outcomes.json --keep $(RESULTS)/artifacts $(LAB_ARGS)

# A file of that size and its copy are held in a guest's memory.
programs-full: $(installed) | packages
	SWANROAM_TRANSFER_MB=500 tests/run-lab -m lab --memory 4000M --timeout 1500 -s tests/scenarios/test_real_transfers.py

connections-full: $(installed) | packages
	SWANROAM_CONNECTIONS=2000 tests/run-lab -m lab --timeout 1800 -s tests/scenarios/test_many_connections.py

# Wheels come from a package index, so they are made before the guest kernel is started.
test-ansible: $(installed) | packages
	@PYTHON=$(PYTHON) tests/install-packages test-ansible
	@mkdir -p $(RESULTS)
	$(python) -m pip install -q --disable-pip-version-check -e '.[fleet]'
	cd ansible && $(CURDIR)/.venv/bin/yamllint --strict . && $(CURDIR)/.venv/bin/ansible-lint -q
	$(python) -m lab.releases $(RESULTS)/fleet
	$(pytest) -m ansible tests/kernel/test_ansible_role.py
	tests/run-lab --guests 1 --keep $(RESULTS)/artifacts -m ansible tests/scenarios/test_ansible_fleet.py

soak: $(installed) | packages
	SWANROAM_MOVES=$${SWANROAM_MOVES:-2000} tests/run-lab --guests 1 --time-limit 86400 -m lab -s tests/scenarios/test_soak.py

monitoring: $(installed)
	@PYTHON=$(PYTHON) tests/install-packages monitoring
	$(pytest) tests/monitoring

bench: $(installed) | packages
	@$(CURDIR)/$(python) -m bench --results $(RESULTS) $(BENCH_ARGS)

deb: $(installed)
	@PYTHON=$(PYTHON) tests/install-packages deb
	@PIP='$(python) -m pip' packaging/build-deb

test-deb: deb
	@PYTHON=$(PYTHON) tests/install-packages test-deb
	$(pytest) tests/package --timeout 0

test-docker: $(installed) | packages
	@PYTHON=$(PYTHON) tests/install-packages test-docker
	PYTHON=$(python) $(pytest) tests/compose --timeout 0

clean:
	rm -rf build dist
	rm -rf .venv .stamp-* $(RESULTS) .hypothesis .pytest_cache .mypy_cache .ruff_cache ansible/.ansible
	find controller tests -name __pycache__ -type d -prune -exec rm -rf {} +
