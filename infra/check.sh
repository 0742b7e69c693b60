#!/usr/bin/env bash
# What `make check` adds to `make test`: lint, formatting, types, the slow tests, and the scorecard beside them, whose faults
# wait for timeouts most of their time. SEEDS: random moments of each fault, 3 in `make scorecard`.
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
"$bin/python" -m pytest -m "(slow or cluster) and not chaos and not scorecard" || failed=1
wait $! || failed=1
cat "$scorecard"
exit $failed
