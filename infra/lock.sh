#!/usr/bin/env bash
# Resolve infra/requirements.lock anew: every package that demo, tests and benchmarks install, for Python 3.11-3.13, with hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
"$uv" pip compile pyproject.toml --extra demo --extra dev --extra bench --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --upgrade --output-file infra/requirements.lock
