"""S3, by two clients: obstore reads objects and ranges of them, s3fs does all else.

obstore reads with a sixth to two thirds of s3fs' processor time (configs/LOG.md, S3's reader), but cannot be the only client:
it lists `x//y` as `x/y`, fails a whole listing over a newline in one key, and gives S3's code of an error (ExpiredToken, ...)
only as part of a message. So s3fs is the one that is configured, and is asked again for all that obstore could not answer.
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

CONNECT_S, READ_S = 5, 30  # a silent store is a failed request after so long
# obstore asks botocore for the credentials again some minutes before this has passed; botocore knows when they end.
_CREDENTIALS_KEPT = timedelta(minutes=15)
LISTING = "maskmill-listing"  # of whose requests a server's log tells, and whose answers are parsed here
_UNORDERED = "--x-s3"  # a directory bucket lists in no order, and begins at no key
_CHANGED = ("PreconditionFailed", "412")
# Answers to a conditional PUT that lost: to an object, or to another PUT at the same moment.
_ALREADY_THERE = (*_CHANGED, "ConditionalRequestConflict", "409")


class S3(FsspecStore):
    """Paths are bucket/key. Credentials, region and endpoint are those of the environment, as s3fs finds them."""

    @classmethod
    def open(cls, uri: str) -> tuple["S3", str]:
        """The store of a URI and the path in it."""
        fs, path = fsspec.core.url_to_fs(uri, **_options(attempts=1))
        fs.retries = 1  # s3fs has a loop of its own around botocore's
        return cls(fs), path

    @property
    def exclusive_create(self) -> bool:
        return True

    def read(self, path: str, etag: str | None) -> bytes:
        if (data := self.fetch(path, etag)) is not None:
            return data
        return self._read_plain(path) if etag is None else self._read_listed(path, etag)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        data = self.fetch(path, span=(offset, offset + length))
        return super().read_range(path, offset, length) if data is None else data

    def create(self, path: str, data: bytes) -> bool:
        """By a conditional PUT (`If-None-Match: *`), which s3fs has no error of its own for."""
        try:
            return super().create(path, data)
        except OSError as error:
            if s3_code(error) in _ALREADY_THERE:
                return False
            raise

    def scan(self, root: str) -> Iterator[Listed]:
        """In no order where there is more than a page."""
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
                )  # a folder's mark, as consoles make them
        except FileNotFoundError:  # no such bucket
            return

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        import pyarrow.fs

        fs = fsspec.filesystem("s3", **_options(attempts=8))
        fs.retries = type(fs).retries
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))

    def fetch(self, path: str, etag: str | None = None, span: tuple[int, int] | None = None) -> bytes | None:
        """An object, or bytes from .. to - 1 of it, by obstore in one request; None where s3fs must be asked.

        Raises:
            FileNotFoundError: the store has no such object.
        """
        bucket, _, key = path.partition("/")
        if key.strip("/") != key:  # obstore would read the object without the slash
            return None
        clients: dict[str, S3Store | None] = vars(self._fs).setdefault(
            "obstore_clients", {}
        )  # end with their filesystem
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
            return None  # ValueError: the key is no path to obstore, it has an empty part or a newline

    @retried
    def _read_plain(self, path: str) -> bytes:
        # One request: s3fs would ask for the size first, to read large objects in pieces.
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
    """One page of the objects whose keys begin with a prefix; paths are bucket/key."""
    client = sync(fs.loop, fs.set_session)
    # Before botocore looks whether the answer is an error, for which it parses all of it too.
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
    """s3fs' options; listings are never cached: other processes write here too."""
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
    """A client of one bucket; None where s3fs was told what obstore has no word for, or has no credentials."""
    if fs.s3_additional_kwargs or fs.req_kw or fs.version_aware or fs.client_kwargs:
        return None
    client = sync(fs.loop, fs.set_session)
    given = (
        ReadOnlyCredentials(fs.key, fs.secret, fs.token) if fs.key and fs.secret else None
    )  # in fsspec's own settings
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
        retry_config={"max_retries": 0},  # s3fs is asked next
    )
