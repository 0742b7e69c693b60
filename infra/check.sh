#!/usr/bin/env bash
# The one gate before every commit: lint, formatting, types, then the README's test command.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
make --no-print-directory test  # pytest's summary stays the last line
