"""S3 through two clients: obstore reads objects and ranges, s3fs does everything else.

obstore reads with a sixth to two thirds of s3fs' processor time (configs/LOG.md, S3's reader), but cannot be the only client:
it lists `x//y` as `x/y`, fails a whole listing because of a newline in one key, and gives S3's error code (ExpiredToken, ...)
only inside a message. So s3fs is the client that is configured, and it repeats every request that obstore could not answer.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import fsspec
import obstore
from botocore.credentials import ReadOnlyCredentials
from fsspec.asyn import sync
from obstore.exceptions import BaseError
from obstore.store import S3Store

from pipeline.storage.fsspec_store import FsspecStore
from pipeline.storage.key_ranges import Page, scan_ranges
from pipeline.storage.retry import retried, s3_code
from pipeline.storage.s3_listing import FOUND, parse_listing
from pipeline.storage.store import LIST_PAGE, LISTERS, Changed, Listed

if TYPE_CHECKING:
    import pyarrow.fs

CONNECT_S, READ_S = 5, 30  # timeouts after which a request fails
# obstore asks botocore for the credentials again some minutes before this has passed; botocore knows when they expire.
_CREDENTIALS_KEPT = timedelta(minutes=15)
LISTING = "maskmill-listing"  # user agent of listing requests, for server logs, and id of the handler that parses them
_UNORDERED = "--x-s3"  # a directory bucket lists in no order, and cannot start a listing after a key
_CHANGED = ("PreconditionFailed", "412")
# Replies to a conditional PUT that failed because of an existing object, or of another PUT at the same time.
_ALREADY_THERE = (*_CHANGED, "ConditionalRequestConflict", "409")


class S3(FsspecStore):
    """Paths are bucket/key. Credentials, region and endpoint are those of the environment, as s3fs finds them."""

    @classmethod
    def open(cls, uri: str) -> tuple["S3", str]:
        """Return the store of a URI and the path in it."""
        fs, path = fsspec.core.url_to_fs(uri, **_options(attempts=1))
        fs.retries = 1  # s3fs has its own retry loop around botocore's
        return cls(fs), path

    @property
    def exclusive_create(self) -> bool:
        return True

    @retried
    def etag(self, path: str) -> str | None:
        return self._fs.info(path).get("ETag") or None

    def read(self, path: str, etag: str | None) -> bytes:
        if (data := self.fetch(path, etag)) is not None:
            return data
        return self._read_plain(path) if etag is None else self._read_listed(path, etag)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        data = self.fetch(path, span=(offset, offset + length)) if length > 0 else b""
        return super().read_range(path, offset, length) if data is None else data

    def create(self, path: str, data: bytes) -> bool:
        """Create by a conditional PUT (`If-None-Match: *`), for whose refusal s3fs has no specific error."""
        try:
            return super().create(path, data)
        except OSError as error:
            if s3_code(error) in _ALREADY_THERE:
                return False
            raise

    def scan(self, root: str) -> Iterator[Listed]:
        """Yield all objects, in no particular order if there is more than one page."""
        bucket, _, prefix = root.partition("/")
        if prefix:
            prefix += "/"
        listing = fsspec.filesystem("s3", **_options(attempts=1, user_agent_extra=LISTING))
        listing.retries = 1
        list_page = partial(_list_page, listing, bucket, prefix)
        listers = 1 if bucket.endswith(_UNORDERED) else LISTERS
        try:
            for found in scan_ranges(list_page, f"{bucket}/{prefix}", listers):
                yield from (
                    one for one in found if not one.path.endswith("/")
                )  # consoles create such objects as folder markers
        except FileNotFoundError:  # no such bucket
            return

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        import pyarrow.fs

        fs = fsspec.filesystem("s3", **_options(attempts=8))
        fs.retries = type(fs).retries
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))

    def fetch(self, path: str, etag: str | None = None, span: tuple[int, int] | None = None) -> bytes | None:
        """Read an object, or its bytes span[0] .. span[1] - 1, with obstore in one request; None if s3fs must do it.

        Raises:
            FileNotFoundError: the store has no such object.
        """
        bucket, _, key = path.partition("/")
        if key.strip("/") != key:  # obstore would ignore the slash and read another object
            return None
        clients: dict[str, S3Store | None] = vars(self._fs).setdefault(
            "obstore_clients", {}
        )  # kept as long as their filesystem
        if bucket not in clients:
            clients[bucket] = _obstore(self._fs, bucket)
        if (client := clients[bucket]) is None:
            return None
        try:
            if span is not None:
                return bytes(obstore.get_range(client, key, start=span[0], end=span[1]))
            return bytes(obstore.get(client, key, options={"if_match": etag} if etag else {}).bytes())
        except FileNotFoundError:
            raise FileNotFoundError(path) from None
        except (BaseError, OSError, ValueError):
            return None  # ValueError: obstore rejects keys with an empty part or a newline

    @retried
    def _read_plain(self, path: str) -> bytes:
        # With max_concurrency=1 this is one request; otherwise s3fs asks for the size first, to read large objects in pieces.
        return self._fs.cat_file(path, max_concurrency=1)

    @retried
    def _read_listed(self, path: str, etag: str) -> bytes:
        bucket, _, key = path.partition("/")
        try:
            answer = self._fs.call_s3("get_object", Bucket=bucket, Key=key, IfMatch=etag)
        except OSError as error:
            if s3_code(error) in _CHANGED:
                raise Changed(f"{path} changed after it was listed") from error
            raise
        return sync(self._fs.loop, answer["Body"].read)


@retried
def _list_page(fs: fsspec.AbstractFileSystem, bucket: str, prefix: str, after: str | None, token: str | None) -> Page:
    """Return one page of the objects whose keys begin with a prefix; paths are bucket/key."""
    client = sync(fs.loop, fs.set_session)
    # First, because botocore parses the whole reply too in order to check whether it is an error.
    client.meta.events.register_first("before-parse.s3.ListObjectsV2", parse_listing, unique_id=LISTING)
    request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": LIST_PAGE}
    if token is not None:
        request["ContinuationToken"] = token
    elif after is not None:
        request["StartAfter"] = after.removeprefix(f"{bucket}/")
    answer = fs.call_s3("list_objects_v2", **request)
    if FOUND in answer:
        found = [Listed(f"{bucket}/{key}", size, etag, modified) for key, size, etag, modified in answer[FOUND]]
    else:
        found = [
            Listed(f"{bucket}/{one['Key']}", one["Size"], one.get("ETag"), one["LastModified"].timestamp())
            for one in answer.get("Contents", ())
        ]
    return Page(found, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)


def _options(attempts: int, **more: str) -> dict[str, Any]:
    """Return options for s3fs; listings are never cached, since other processes write here too."""
    retries = {"mode": "standard", "total_max_attempts": attempts}
    limits = {
        "connect_timeout": CONNECT_S,
        "read_timeout": READ_S,
        "retries": retries,
        "max_pool_connections": 64,
        **more,
    }
    return {"use_listings_cache": False, "config_kwargs": limits}


def _obstore(fs: fsspec.AbstractFileSystem, bucket: str) -> S3Store | None:
    """Return an obstore client for a bucket; None if s3fs has options that obstore lacks, or has no credentials."""
    if fs.s3_additional_kwargs or fs.req_kw or fs.version_aware or fs.client_kwargs:
        return None
    client = sync(fs.loop, fs.set_session)
    given = (
        ReadOnlyCredentials(fs.key, fs.secret, fs.token) if fs.key and fs.secret else None
    )  # from fsspec's own settings
    held = None if given or fs.anon else sync(fs.loop, fs.session.get_credentials)
    if not (given or held or fs.anon):
        return None

    async def credentials() -> dict[str, Any]:
        frozen: Any = await held.get_frozen_credentials() if held else given
        return {
            "access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_KEPT,
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
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=READ_S),
        },
        retry_config={"max_retries": 0},  # s3fs repeats the request
    )
