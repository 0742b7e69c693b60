"""Verify a run of one generation (verify.py) or of several (verify_generations.py)."""

from pipeline.runs.generations import newest_state
from pipeline.runs.info import read_info
from pipeline.runs.verify import Verification, verify_one
from pipeline.runs.verify_generations import verify_generations


def verify(uri: str) -> Verification:
    """Re-read every part of all generations of a run, and count; faults of the run are listed, not raised.

    Raises:
        UserError: there is no run at the URI, its run.json cannot be read, or a plan, or the changes of a later generation,
            are gone or are not those that the run was made with.
    """
    info = read_info(uri)
    state = newest_state(uri)
    if state is not None and state.generations:
        return verify_generations(uri, info, state)
    return verify_one(uri, info, state)
