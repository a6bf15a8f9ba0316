#!/usr/bin/env bash
# Every tier in order: checks and unit tests, lines broken on purpose, native privileged tests, tests in a booted machine.
# Ends with the runner's own closing line over all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
ruff check --quiet .
ruff format --check --quiet .
mypy
lint-imports --no-cache >build/lint-imports.log 2>&1 || { cat build/lint-imports.log; exit 1; }
exec python -m pytest -q --durations=15 tests/unit tests/attacks tests/mutation tests/privileged tests/vm "$@"
