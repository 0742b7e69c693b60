"""The proof of a run, whatever it is: of one generation (verify.py) or of several (verify_generations.py)."""

from pipeline.runs.generations import newest_state
from pipeline.runs.info import read_info
from pipeline.runs.verify import Verification, verify_one
from pipeline.runs.verify_generations import verify_generations


def verify(uri: str) -> Verification:
    """Re-read every part of a run, of each of its generations, and count; a fault of the run is listed and not raised.

    Raises:
        UserError: there is no run at the URI, its run.json cannot be read, or a plan, or what a later generation changed, is
            gone or not the one that the run was made with.
    """
    info = read_info(uri)
    state = newest_state(uri)
    if state is not None and state.generations:
        return verify_generations(uri, info, state)
    return verify_one(uri, info, state)
