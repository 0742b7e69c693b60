#!/usr/bin/env bash
# The one gate before every commit: lint, formatting, types, then the README's test command, and the scorecard beside it:
# faults wait for timeouts most of their time. SEEDS: random moments of each fault, 3 in `make scorecard`.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
scorecard=$(mktemp)
trap 'rm -f "$scorecard"' EXIT
"$bin/python" -m tests.scorecard --seeds "${SEEDS:-1}" >"$scorecard" 2>&1 &
failed=0
PYTEST_ADDOPTS="-m 'not chaos and not scorecard'" make --no-print-directory test || failed=1
wait $! || failed=1
cat "$scorecard"
exit $failed
