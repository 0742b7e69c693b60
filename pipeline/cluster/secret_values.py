"""Keep secrets of this machine's environment out of what is sent to a cluster."""

import os
import re
from typing import Any

from pipeline.config import canonical
from pipeline.errors import UserError

NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|_KEY$", re.IGNORECASE)
MIN_LENGTH = 8  # shorter values may appear in a text by chance


def refuse_secrets(path: str, values: dict[str, Any], why: str) -> None:
    """Raise UserError if values read from a file hold the value of an environment variable that is named like a secret.

    Args:
        why: the reason that the message gives.
    """
    text = canonical(values)
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= MIN_LENGTH and value in text:
            raise UserError(
                f"{path} holds the value of {name}: {why}; take it out, the cluster's own environment carries the store's "
                "credentials"
            )
