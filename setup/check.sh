#!/usr/bin/env bash
# Types, linters, import contracts and unit tests: the quick half of the gate.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
ruff check --quiet .
ruff format --check --quiet .
mypy
lint-imports --no-cache >build/lint-imports.log 2>&1 || { cat build/lint-imports.log; exit 1; }
python -m pytest -q tests/unit "$@"
