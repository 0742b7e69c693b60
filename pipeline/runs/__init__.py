"""The output of a run: its rows, its ledger, the lease of its one writer, and the proof that nothing is lost."""

from pipeline.runs.compaction import compact
from pipeline.runs.engine_file import keep_network, kept_network
from pipeline.runs.extension import is_being_extended
from pipeline.runs.generations import Generation, generations, grown, listed_parts, newest_state, plan_of, state_of
from pipeline.runs.identity import check_checkpoints
from pipeline.runs.info import PartEntry, RunInfo, describe, read_success, run_exists
from pipeline.runs.lease import Lease
from pipeline.runs.ledger import Run
from pipeline.runs.parts import Part, checked_parts, parts_of, read_table
from pipeline.runs.plan import Plan
from pipeline.runs.proof import verify
from pipeline.runs.regions import region_array, with_regions
from pipeline.runs.schema import (
    CONFIDENCE_MAP,
    GEOREFERENCE,
    REGIONS,
    REJECT_SCHEMA,
    SECONDS,
    PixelConfidence,
    mask_schema,
    region_schema,
)
from pipeline.runs.success import Finished
from pipeline.runs.verify import Verification

__all__ = [
    "CONFIDENCE_MAP", "GEOREFERENCE", "REGIONS", "REJECT_SCHEMA", "SECONDS", "Finished", "Generation", "Lease", "Part",
    "PartEntry", "PixelConfidence", "Plan", "Run", "RunInfo", "Verification", "check_checkpoints", "checked_parts", "compact",
    "describe", "generations", "grown", "is_being_extended", "keep_network", "kept_network", "listed_parts",
    "mask_schema", "newest_state", "parts_of", "plan_of", "read_success", "read_table", "region_array", "region_schema",
    "run_exists", "state_of", "verify", "with_regions",
]  # fmt: skip
