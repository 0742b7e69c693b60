#!/usr/bin/env bash
# `make check`: lint, formatting, types, the fast tests of `make test`, the slow ones, and the scorecard, each test once. Three
# streams run side by side, so that no core waits for the faults' timeouts; that of the networks only computes and steps back for
# the others. SEEDS: random moments of each fault, 3 in `make scorecard`. WITHOUT_LONG=1 leaves out the tests marked `long`, as CI
# does.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
slow="(slow or cluster) and not chaos and not scorecard${WITHOUT_LONG:+ and not long}"
networks=(tests/test_{models,lineage,surgery,identify,export_model,engines,outside,crf_device,enlarge_gpu}.py) # no cluster in them
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT

types_and_faults() { # every step runs, whatever the one before it found
    local failed=0
    "$bin/mypy" || failed=1
    "$bin/python" -m tests.scorecard --seeds "${SEEDS:-1}" ${WITHOUT_LONG:+--without-long} || failed=1
    return $failed
}

"$bin/ruff" check .
"$bin/ruff" format --check .
failed=0
types_and_faults >"$outputs/faults" 2>&1 &
faults=$!
nice "$bin/python" -m pytest -m "$slow" "${networks[@]}" >"$outputs/networks" 2>&1 &
nets=$!
make --no-print-directory test WORKERS=0 MARKS="not slow and not cluster and not chaos and not scorecard" || failed=1
"$bin/python" -m pytest -m "$slow" "${networks[@]/#/--ignore=}" || failed=1
wait $nets || failed=1
wait $faults || failed=1
cat "$outputs/networks" "$outputs/faults"
exit $failed
