"""The output contract: rows, the ledger of a run, one writer at a time, and the proof that nothing is lost."""

from pipeline.runs.compaction import compact
from pipeline.runs.engine_file import keep_network, kept_network
from pipeline.runs.identity import check_checkpoints
from pipeline.runs.info import RunInfo, describe, read_success, run_exists
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Run
from pipeline.runs.parts import Part, checked_parts, parts_of, read_table
from pipeline.runs.plan import Plan
from pipeline.runs.schema import GEOREFERENCE, REJECT_SCHEMA, SECONDS, mask_schema
from pipeline.runs.success import Finished
from pipeline.runs.verify import Verification, verify

__all__ = [
    "GEOREFERENCE", "REJECT_SCHEMA", "SECONDS", "Finished", "Lease", "Part", "Plan", "Run", "RunInfo", "Verification",
    "check_checkpoints", "checked_parts", "compact", "describe", "keep_network", "kept_network", "mask_schema", "parts_of",
    "read_success", "read_table", "run_exists", "verify",
]  # fmt: skip
