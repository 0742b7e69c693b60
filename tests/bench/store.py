"""A bucket on a real S3 server for the duration of a measurement."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import S3Server, program


@contextmanager
def s3_store(folder: Path) -> Iterator[str]:
    """URI of an empty bucket; this process and its children reach it through the standard AWS environment."""
    if program() is None:
        raise ValueError("the S3 server is not installed; run pip install 'maskmill[dev]'")
    server = S3Server(folder)
    os.environ |= server.environment()
    os.environ.pop("AWS_CA_BUNDLE", None)
    try:
        yield server.make_bucket("maskmill")
    finally:
        server.stop()
