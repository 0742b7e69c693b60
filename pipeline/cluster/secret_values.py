"""Secrets of this machine's environment, which must not be in what travels to a cluster."""

import os
import re
from typing import Any

from pipeline.config import canonical
from pipeline.errors import UserError

NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|_KEY$", re.IGNORECASE)
MIN_LENGTH = 8  # shorter values stand in texts by chance


def refuse_secrets(path: str, values: dict[str, Any], why: str) -> None:
    """UserError if values read from a file hold the value of a variable that is named like a secret.

    Args:
        why: they must not, for the sentence.
    """
    text = canonical(values)
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= MIN_LENGTH and value in text:
            raise UserError(
                f"{path} holds the value of {name}: {why}; take it out, the cluster's own environment carries the store's "
                "credentials"
            )
