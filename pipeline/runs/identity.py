"""Check that a run's checkpoints are those that it was begun with."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.config import canonical, differences
from pipeline.errors import UserError
from pipeline.runs.info import describe


def check_checkpoints(uri: str, addresses: Sequence[str], current: dict[str, Any]) -> None:
    """Refuse a checkpoint that is no longer the one that a run was begun with.

    Args:
        addresses: URIs of all members of the ensemble, or of the only checkpoint.
        current: the checkpoints' part of the identity, such as `weights_sha256`; members after the first are under `members`.
    Raises:
        UserError: a checkpoint differs; the message has both hashes and each other field that differs.
    """
    identity = describe(uri).identity
    bound = {name: identity.get(name) for name in current}
    for address, before, now in zip(addresses, _each(bound), _each(json.loads(canonical(current))), strict=True):
        changed = differences(before, now)
        if not changed:
            continue
        others = [words for words in changed if not words.startswith("weights_sha256")]
        more = f" ({'; '.join(others)})" if others else ""
        raise UserError(
            f"run {uri}: it is made with the weights of sha256 {before['weights_sha256']}, and the checkpoint at {address} now "
            f"has {now['weights_sha256']}{more}; put the first one back and run the same command again, or start another run"
        )


def _each(identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the identity of each checkpoint."""
    members = identity.get("members") or {}
    yield {name: value for name, value in identity.items() if name != "members"}
    yield from (members[number] for number in sorted(members, key=int))
