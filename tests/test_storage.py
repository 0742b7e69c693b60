"""One contract for every store: the same calls on a folder, in memory and on a real S3 server."""

import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import botocore.session
import fsspec
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from pipeline import storage
from pipeline.errors import StoreRefused
from pipeline.storage import retry
from pipeline.storage import s3 as s3_store
from pipeline.storage.disk import Disk
from pipeline.storage.fsspec_store import FsspecStore
from tests.faulty_store import FaultyStore, answers
from tests.s3_server import KEY, SECRET


@pytest.fixture(params=["folder", "memory", "s3", "gs", "az"])
def prefix(request, tmp_path):
    match request.param:
        case "folder":
            return str(tmp_path)
        case "memory":
            return f"memory://{uuid.uuid4().hex}"
        case store:
            return f"{request.getfixturevalue(store)}/{uuid.uuid4().hex}"


def test_a_listing_says_when_an_object_was_stored(prefix):
    before = time.time()
    storage.put(f"{prefix}/one", b"1")
    (listed,) = storage.scan(prefix)
    assert before - 2 < listed.modified < time.time() + 2  # some stores say whole seconds


def test_what_is_put_can_be_read_whole_and_in_ranges(prefix):
    uri = storage.join(prefix, "a", "b.bin")
    storage.put(uri, b"0123456789")
    assert storage.read(uri) == b"0123456789"
    assert storage.read_range(uri, 3, 4) == b"3456"
    assert storage.read_range(uri, 8, 100) == b"89"
    assert storage.read_range(uri, 10, 5) == storage.read_range(uri, 50, 5) == storage.read_range(uri, 3, 0) == b""
    assert storage.size(uri) == 10
    storage.put(uri, b"new")
    assert storage.read(uri) == b"new"


def test_listing_is_recursive_sorted_and_relative(prefix):
    for path in ("b/2.txt", "a.txt", "b/c/1.txt"):
        storage.put(storage.join(prefix, path), path.encode())
    files = storage.list_files(prefix)
    assert [(file.path, file.bytes) for file in files] == [("a.txt", 5), ("b/2.txt", 7), ("b/c/1.txt", 9)]
    assert [storage.read(file.uri).decode() for file in files] == [file.path for file in files]


def test_a_prefix_without_objects_lists_nothing(prefix):
    assert storage.list_files(storage.join(prefix, "nothing")) == []
    assert not storage.is_dir(storage.join(prefix, "nothing"))


def test_a_missing_object_raises_file_not_found(prefix):
    uri = storage.join(prefix, "missing")
    assert not storage.exists(uri)
    for call in (storage.read, storage.size, lambda u: storage.read_range(u, 0, 1)):
        with pytest.raises(FileNotFoundError):
            call(uri)
    storage.delete(uri)


def test_create_never_replaces_what_was_first(prefix):
    uri = storage.join(prefix, "lease")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read(uri) == b"first"
    storage.delete(uri)
    assert storage.create(uri, b"third")


@pytest.mark.parametrize("prefix", ["folder", "s3"], indirect=True)
def test_of_many_creators_one_wins(prefix):
    uri = storage.join(prefix, "lease")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create(uri, str(i).encode()), range(8)))
    assert sum(won) == 1
    assert storage.read(uri) == str(won.index(True)).encode()


def test_a_broken_write_leaves_nothing_that_readers_see(tmp_path, monkeypatch):
    uri = storage.join(str(tmp_path), "part.parquet")
    storage.put(uri, b"old")
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        storage.put(uri, b"new")
    assert storage.read(uri) == b"old"
    assert list(tmp_path.glob("part*")) == [tmp_path / "part.parquet"]


def test_a_listing_of_many_pages_and_folders_is_complete(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_store, "LIST_PAGE", 2)
    names = ["a-b/1", "a.txt", "a/1", "a/2", "a/b/3", "b"]
    for prefix in (f"{s3}/{uuid.uuid4().hex}", str(tmp_path)):
        for name in names:
            storage.put(storage.join(prefix, name), name.encode())
        assert [file.path for file in storage.list_files(prefix)] == names


def test_an_error_that_passes_is_waited_out_and_another_is_raised_at_once(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    errors = [ConnectionResetError(), TimeoutError(), ConnectionRefusedError()]

    def call(then):
        if errors:
            raise errors.pop()
        return then()

    assert retry.retried(call)(lambda: 7) == 7
    assert errors == []
    tries = []
    with pytest.raises(FileNotFoundError):
        retry.retried(lambda: tries.append(1) or (_ for _ in ()).throw(FileNotFoundError()))()
    assert len(tries) == 1
    monkeypatch.setattr(retry, "GIVE_UP_S", -1)
    with pytest.raises(ConnectionResetError):
        retry.retried(lambda: (_ for _ in ()).throw(ConnectionResetError()))()


def test_a_store_that_is_not_there_is_an_os_error_in_the_end(s3, monkeypatch):
    monkeypatch.setattr(retry, "GIVE_UP_S", -1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for call in (storage.read, storage.exists, storage.list_files, lambda uri: storage.create(uri, b"x")):
            with pytest.raises(OSError, match="did not answer"):
                call("s3://maskmill/a")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_creator_whose_reply_was_lost_learns_that_it_was_first(prefix, monkeypatch):
    """Each try does its work, and its answer is lost once."""
    owner = FsspecStore if "://" in prefix else Disk
    real, lost = owner.create.__wrapped__, []

    def losing(self, path, data):
        done = real(self, path, data)
        if path not in lost:
            lost.append(path)
            raise ConnectionResetError
        return done

    monkeypatch.setattr(owner, "create", retry.retried(losing))
    uri = storage.join(prefix, "part")
    assert storage.create(uri, b"mine")
    assert not storage.create(uri, b"another's")
    assert storage.read(uri) == b"mine"


NAMES = [
    "a b.png",
    "a%2Fb.png",
    "a%20b.png",
    "t+e=&?#.png",
    "u\u0308.png",
    "\u00fc.png",
    "n\nl.png",
    "x//y.png",
    "/led.png",
]


def test_any_key_that_s3_takes_is_read_as_that_key(s3):
    """One client of two reads most of them; what it cannot say goes to the other, and is never another object."""
    prefix = f"{s3}/{uuid.uuid4().hex}"
    for number, name in enumerate(NAMES):
        storage.put(f"{prefix}/{name}", b"0%d" % number)
    for number, name in enumerate(NAMES):
        assert storage.read(f"{prefix}/{name}") == b"0%d" % number
        assert storage.read_range(f"{prefix}/{name}", 1, 1) == b"%d" % number
    etags = {file.path: file.etag for file in storage.scan(prefix)}
    assert storage.read(f"{prefix}/{NAMES[0]}", etags[NAMES[0]]) == b"00"
    storage.put(f"{prefix}/{NAMES[0]}", b"other")
    with pytest.raises(storage.Changed):
        storage.read(f"{prefix}/{NAMES[0]}", etags[NAMES[0]])


def test_plain_keys_come_the_fast_way_and_wrong_credentials_are_told_by_the_other(s3, monkeypatch):
    uri = f"{s3}/{uuid.uuid4().hex}"
    storage.put(uri, b"0123")
    store, path = storage._store(uri)
    assert store.fetch(path) == b"0123"
    assert store.fetch(path, span=(1, 9)) == b"123"
    assert store.fetch(f"{path}//x") is None
    with pytest.raises(FileNotFoundError):
        store.fetch(f"{path}.gone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        storage.read(uri)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [(503, "SlowDown", True), (500, "InternalError", True), (429, "TooManyRequests", True), (400, "RequestTimeout", True),
     (403, "AccessDenied", False), (404, "NoSuchKey", False), (400, "InvalidArgument", False)],
)  # fmt: skip
def test_an_answer_of_the_store_is_asked_for_again_where_that_may_help(s3_process, s3, status, code, transient):
    """The client's own error, of a real server behind a proxy that answers in its place."""
    with FaultyStore(s3_process.url) as proxy, proxy.fault(answers(status, code), lambda asked: asked.method == "GET"):
        options = {"endpoint_url": proxy.url, "region_name": "us-east-1", "config": Config(retries={"max_attempts": 0})}
        client = botocore.session.get_session().create_client(
            "s3", aws_access_key_id=KEY, aws_secret_access_key=SECRET, **options
        )
        with pytest.raises(ClientError) as met:
            client.get_object(Bucket="maskmill", Key="a")
    assert retry.is_transient(met.value) is transient
