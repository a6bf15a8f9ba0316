# Every target sets up what it needs by itself; a second run does only what changed.
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test check soak bench unit clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install system packages, the virtual environment and the tools tree
	@python3 setup/prepare.py all

demo: setup ## One signed push puts a confined nginx onto a booted, verified server
	@$(PY) demo/run.py

test: setup ## All tiers: checks, unit, native privileged, virtual machine (about 30 min cold)
	@setup/test.sh

check: ## Types, linters, import contracts, unit tests (under a minute)
	@python3 setup/prepare.py venv
	@setup/check.sh

soak: setup ## Long runs, resumable; each writes docs/reports/NAME.json
	@$(PY) -m pytest -q tests/soak

bench: setup ## Side-by-side runs against real peers
	@$(PY) -m bench
	@$(PY) -m bench boot

clean: ## Remove everything that was built
	@rm -rf build .venv
