"""The output contract: rows, the ledger of a run, one writer at a time, and the proof that nothing is lost."""

from pipeline.run.lease import Lease
from pipeline.run.ledger import Finished, Run, describe
from pipeline.run.rows import REJECT_SCHEMA, SECONDS, mask_schema, read_table
from pipeline.run.verify import Verification, verify

__all__ = [
    "REJECT_SCHEMA", "SECONDS", "Finished", "Lease", "Run", "Verification", "describe", "mask_schema", "read_table",
    "verify",
]  # fmt: skip
