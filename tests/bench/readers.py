"""Reading from S3 on eight threads: our storage beside s3fs, pyarrow, boto3 and obstore, on a real server on this machine.

python -m tests.bench.readers [rounds]    one minute; pip install 'maskmill[bench]' for all the rows

Two shapes of a corpus: many objects, and members of one zip (whose places are known after one look at its directory; `zipfile`
over a remote file finds them itself). Times and processor time are of one picture; the server shares the machine.
"""

import importlib.util
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import numpy as np

from pipeline import storage
from pipeline.corpus.readers.zip import list_members, read_member
from tests.bench.store import s3_store
from tests.bench.turns import compare

THREADS, HEADER_BYTES = 8, 64  # what a local header of these zips takes at most
SHAPES = {"PNG-like": (48, 2_400_000), "JPEG-like": (96, 300_000)}  # pictures, bytes of each
LOOPBACK = (
    "the server and the loopback share these cores, so there is no rate of the wire; of the memory's it is a fraction"
)
Reader = Callable[[str, int | None, int], bytes]  # key, offset (None: the whole object), length -> bytes


def readers(bucket: str) -> dict[str, Reader]:
    """Each program's plain way to read an object or a range of one."""
    import pyarrow.fs

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    s3fs = fsspec.filesystem("s3")
    arrow = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1")

    def arrow_read(key: str, offset: int | None, length: int) -> bytes:
        with arrow.open_input_file(f"{bucket}/{key}") as file:
            return file.read() if offset is None else file.read_at(length, offset)

    found: dict[str, Reader] = {
        "maskmill": lambda key, offset, length: (
            storage.read(f"s3://{bucket}/{key}")
            if offset is None
            else storage.read_range(f"s3://{bucket}/{key}", offset, length)
        ),
        "s3fs": lambda key, offset, length: (
            s3fs.cat_file(f"{bucket}/{key}")
            if offset is None
            else s3fs.cat_file(f"{bucket}/{key}", start=offset, end=offset + length)
        ),
        "pyarrow": arrow_read,
    }
    if importlib.util.find_spec("boto3"):
        import boto3

        client = boto3.client("s3")

        def boto_read(key: str, offset: int | None, length: int) -> bytes:
            part = {} if offset is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
            return client.get_object(Bucket=bucket, Key=key, **part)["Body"].read()

        found["boto3"] = boto_read
    if importlib.util.find_spec("obstore"):
        import obstore
        from obstore.store import S3Store

        store = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})
        found["obstore"] = lambda key, offset, length: bytes(
            obstore.get(store, key).bytes()
            if offset is None
            else obstore.get_range(store, key, start=offset, length=length)
        )
    return found


def remote_zipfile(uri: str, names: list[str]) -> Callable[[], object]:
    """The standard library over fsspec's file: one reader, since its position is shared."""

    def read() -> int:
        with fsspec.open(uri) as file, zipfile.ZipFile(file) as archive:
            return sum(len(archive.read(name)) for name in names)

    return read


def lay(folder: Path, store: str, shape: str, count: int, size: int) -> list[str]:
    """Noise as `count` objects below a prefix and as the members of one zip; returns their names."""
    rng, names = np.random.default_rng(0), [f"{index:04d}.png" for index in range(count)]
    path = folder / "corpus.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            data = rng.bytes(size)
            archive.writestr(name, data)
            storage.put(f"{store}/{shape}/{name}", data)
    storage.put(f"{store}/{shape}.zip", path.read_bytes())
    return names


def read_all(pool: ThreadPoolExecutor, read: Callable[..., bytes], asked: list[tuple[object, ...]]) -> int:
    """Bytes of all answers."""
    return sum(map(len, pool.map(lambda one: read(*one), asked)))


def main(rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_store(Path(folder)) as store,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        programs = readers(store.removeprefix("s3://"))
        for shape, (count, size) in SHAPES.items():
            names = lay(Path(folder), store, shape, count, size)
            places = list(list_members(f"{store}/{shape}.zip").values())
            whole = [(f"{shape}/{name}", None, 0) for name in names]
            ranges = [(f"{shape}.zip", place.offset, place.bytes + HEADER_BYTES) for place in places]
            ways = {name: partial(read_all, pool, read, whole) for name, read in programs.items()}
            assert {way() for way in ways.values()} == {count * size}
            title = f"S3, {count} objects of {size / 1e6:.1f} MB, {THREADS} threads"
            row = f"read an object of {size / 1e6:.1f} MB from S3"
            compare(title, ways, rounds, each=count, row=row, limit=LOOPBACK)
            ways = {name: partial(read_all, pool, read, ranges) for name, read in programs.items()}
            ways["maskmill"] = partial(read_all, pool, read_member, [(place,) for place in places])
            ways["zipfile over fsspec, 1 thread"] = remote_zipfile(f"{store}/{shape}.zip", names)
            title = f"S3, {count} members of one zip, {size / 1e6:.1f} MB each, {THREADS} threads"
            row = f"read a member of a zip on S3, {size / 1e6:.1f} MB"
            notes = {"maskmill": "header and CRC checked"}
            compare(title, ways, rounds, each=count, notes=notes, row=row, limit=LOOPBACK)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
