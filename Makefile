# Thin names for the commands of the README.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2 # processes of `make test`; 0: all in one
RECORD ?= # `make bench RECORD=1` keeps the ratios in configs/bench_history.jsonl

.PHONY: help demo test check scorecard bench bench-run bench-crf lock clean

help:
	@echo "make demo       make a small corpus, train, segment it, and report (about 3 minutes on 2 cores, once installed)"
	@echo "make test       install and run the fast tests (about 5 minutes on 2 cores, once installed)"
	@echo "make check      the one gate: lint, types, make test, the slow tests and the scorecard, one seed each (half an hour)"
	@echo "make scorecard  32 faults, 61 bad inputs, 14 security checks: one line each (a quarter of an hour, three seeds each)"
	@echo "make bench      the book: measurements beside peers and limits, as one page (14 minutes on 2 quiet cores)"
	@echo "make bench-run  a whole segmentation on S3 beside plain loops (10 minutes on 2 quiet cores)"
	@echo "make bench-crf  the dense CRF beside pydensecrf: time, memory, agreement (some minutes; needs the CamVid photographs)"
	@echo "make lock       resolve infra/requirements.lock anew"
	@echo "make clean      remove .venv and runs/"

demo: $(STAMP)
	$(BIN)/maskmill demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(if $(MARKS),-m "$(MARKS)")

check: $(STAMP)
	infra/check.sh

scorecard: $(STAMP)
	$(BIN)/python -m tests.scorecard

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(if $(RECORD),--record)

bench-run: $(STAMP)
	$(BIN)/python -m tests.bench.run

bench-crf: $(STAMP)
	$(BIN)/python -m tests.bench.crf

lock: $(STAMP)
	infra/lock.sh

clean:
	rm -rf .venv runs

$(STAMP): pyproject.toml infra/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, found $$($(PYTHON) --version); run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r infra/requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
