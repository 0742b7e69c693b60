"""What binds a run to its checkpoint."""

import json
from typing import Any

from pipeline.config import canonical, differences
from pipeline.errors import UserError
from pipeline.runs.info import describe


def check_checkpoint(uri: str, checkpoint_uri: str, current: dict[str, Any]) -> None:
    """Refuse the checkpoint at a URI where it is no longer the one that a run was begun with.

    Args:
        current: what of it decides masks, `weights_sha256` among it.
    Raises:
        UserError: naming both hashes, and each other field that differs.
    """
    identity = describe(uri).identity
    bound = {name: identity.get(name) for name in current}
    changed = differences(bound, json.loads(canonical(current)))
    if not changed:
        return
    others = [words for words in changed if not words.startswith("weights_sha256")]
    more = f" ({'; '.join(others)})" if others else ""
    raise UserError(
        f"run {uri}: it is made with the weights of sha256 {bound['weights_sha256']}, and the checkpoint at {checkpoint_uri} "
        f"now has {current['weights_sha256']}{more}; put the first one back and run the same command again, or start another run"
    )
