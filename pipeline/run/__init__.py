"""The output contract: rows, the ledger of a run, one writer at a time, and the proof that nothing is lost."""

from pipeline.run.compaction import compact
from pipeline.run.identity import check_checkpoint
from pipeline.run.info import RunInfo, describe, read_success
from pipeline.run.lease import Lease
from pipeline.run.ledger import Run
from pipeline.run.parts import Part, checked_parts, parts_of, read_table
from pipeline.run.plan import Plan
from pipeline.run.rows import REJECT_SCHEMA, SECONDS, mask_schema
from pipeline.run.success import Finished
from pipeline.run.verify import Verification, verify

__all__ = [
    "REJECT_SCHEMA", "SECONDS", "Finished", "Lease", "Part", "Plan", "Run", "RunInfo", "Verification",
    "check_checkpoint", "checked_parts", "compact", "describe", "mask_schema", "parts_of", "read_success", "read_table",
    "verify",
]  # fmt: skip
