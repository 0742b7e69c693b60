"""The output contract: rows, the ledger of a run, one writer at a time, and the proof that nothing is lost."""

from pipeline.run.compaction import compact
from pipeline.run.identity import check_checkpoint, describe
from pipeline.run.lease import Lease
from pipeline.run.ledger import Run
from pipeline.run.parts import parts_of, read_table
from pipeline.run.plan import Plan
from pipeline.run.rows import REJECT_SCHEMA, SECONDS, mask_schema
from pipeline.run.success import Finished
from pipeline.run.verify import Verification, verify

__all__ = [
    "REJECT_SCHEMA", "SECONDS", "Finished", "Lease", "Plan", "Run", "Verification", "check_checkpoint", "compact", "describe",
    "mask_schema", "parts_of", "read_table", "verify",
]  # fmt: skip
