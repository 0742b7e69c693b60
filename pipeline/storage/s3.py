"""Objects of S3, and ranges of them, by obstore: a sixth to two thirds of s3fs' processor time (configs/LOG.md, S3 readers).

s3fs stays the client of all else and the one that is configured: endpoint, region and credentials are taken from it. What
does not come this way is asked of s3fs again, whose errors are those that pipeline/storage/retry.py knows.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import fsspec
import obstore
from fsspec.asyn import sync
from obstore.exceptions import BaseError
from obstore.store import S3Store

# Credentials are asked for again a few minutes before this has passed; botocore, which is asked, knows when they end.
_KEPT = timedelta(minutes=15)


def fetch(fs: fsspec.AbstractFileSystem, path: str, etag: str | None, span: tuple[int, int] | None) -> bytes | None:
    """An object, or bytes from .. to - 1 of it, in one request; None where s3fs must be asked.

    Args:
        fs: s3fs' filesystem, whose limits are this client's.
        path: bucket/key.
        etag: what the object must still have.
    Raises:
        FileNotFoundError: the store has no such object.
    """
    bucket, _, key = path.partition("/")
    if key.strip("/") != key:  # obstore would read the object without the slash
        return None
    stores: dict[str, S3Store | None] = vars(fs).setdefault("maskmill_stores", {})  # end with their filesystem
    if bucket not in stores:
        stores[bucket] = _store(fs, bucket)
    if (store := stores[bucket]) is None:
        return None
    try:
        if span is not None:
            return bytes(obstore.get_range(store, key, start=span[0], end=span[1]))
        return bytes(obstore.get(store, key, options={"if_match": etag} if etag else {}).bytes())
    except FileNotFoundError:
        raise FileNotFoundError(path) from None
    except (BaseError, OSError, ValueError):
        return None  # ValueError: the key is no path to obstore, it has an empty part or a newline


def _store(fs: fsspec.AbstractFileSystem, bucket: str) -> S3Store | None:
    """One client a bucket; None where s3fs was told what obstore has no word for, or has no credentials."""
    if fs.s3_additional_kwargs or fs.req_kw or fs.version_aware or fs.client_kwargs:
        return None
    client = sync(fs.loop, fs.set_session)
    held = client._request_signer._credentials  # botocore has no other name for those that a client was made with
    if held is None and not fs.anon:
        return None
    limits = fs.config_kwargs

    async def credentials() -> dict[str, Any]:
        now = held.get_frozen_credentials()
        frozen = await now if hasattr(now, "__await__") else now
        return {
            "access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token,
            "expires_at": datetime.now(UTC) + _KEPT,
        }  # fmt: skip

    endpoint = client.meta.endpoint_url
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=client.meta.region_name or "us-east-1",
        credential_provider=None if fs.anon else lambda: sync(fs.loop, credentials),
        skip_signature=bool(fs.anon),
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=limits["connect_timeout"]),
            "timeout": timedelta(seconds=limits["read_timeout"]),
        },
        retry_config={"max_retries": 0},  # pipeline/storage/retry.py repeats
    )
