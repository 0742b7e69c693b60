"""A listing by many listers finds what one lister finds, for any keys and any order of the store, with few more requests."""

import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage
from pipeline.storage import s3 as s3_store
from pipeline.storage.key_ranges import Page, scan_ranges
from pipeline.storage.s3_listing import FOUND, parse_listing
from tests.paged_store import PagedStore

KEYS = {
    "none": [],
    "one": ["a"],
    "a flat folder": [f"{n:05d}.jpg" for n in range(600)],
    "numbers of any length": [f"{n}.jpg" for n in range(600)],
    "two folders": [f"{kind}/seq{n // 10:03d}_f{n % 10}.png" for kind in ("images", "labels") for n in range(300)],
    "thousands of folders": [f"f{n}/{k}" for n in range(1500) for k in range(n % 3)],
    "uneven folders": [*[f"a{n}" for n in range(9)], *[f"m/{n:08d}" for n in range(600)], *[f"z{n}" for n in range(9)]],
    "one name is the beginning of another": ["a" * n for n in range(1, 300)],
    "folders and files of like names": [f"a{n % 20}{tail}{n}" for n in range(400) for tail in ("/", "-", ".", "/b/", "")],
    "letters of the world": [f"{chr(0x4E00 + n)}{'é' * (n % 3)}{chr(0x1F600 + n % 7)}/x" for n in range(400)],
    "order of bytes, not of UTF-16": [f"{letter}{n}" for letter in ("\uffee", "\U00010000", "~", "ÿ") for n in range(99)],
    "empty names and signs": [f"a/{sign}{n}" for sign in ("/", "//", " ", "+", "%2F", "&", "<", "\n") for n in range(40)],
    "one long beginning": [f"{'x' * 200}/{n:06d}" for n in range(400)],
}  # fmt: skip
ORDERS = {
    "of bytes": str.encode,
    "of folders": lambda key: [part.encode() for part in key.split("/")],
    "backwards": lambda key: key.encode()[::-1],
    "none": lambda key: random.Random(key).random(),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(("page", "listers"), [(1, 2), (7, 8), (64, 32), (1000, 4)])
def test_every_key_is_listed_once(keys, order, page, listers):
    wanted = [f"bucket/{key}" for key in KEYS[keys]]
    found = scan_ranges(PagedStore(wanted, page, ORDERS[order]), "bucket/", listers)
    assert sorted(one.path for page in found for one in page) == sorted(wanted)


@pytest.mark.parametrize("keys", KEYS)
def test_where_keys_have_the_order_of_bytes_all_listers_work_and_few_pages_are_empty(keys):
    store = PagedStore([f"bucket/{key}" for key in KEYS[keys]], page=5, page_s=0.01)
    pages = -(-len(KEYS[keys]) // 5)
    list(scan_ranges(store, "bucket/", 8))
    if pages > 50:
        assert store.most_at_once == 8
        assert (
            pages <= store.requests <= 2 * pages + 3 * 8
        )  # wrong guesses are bounded, and a page of five is soon half full
    elif pages < 2:
        assert store.requests == 1


def test_a_key_that_is_stored_or_removed_meanwhile_leads_to_no_other_key_twice():
    keys = [f"b/{n:05d}" for n in range(2000)]
    store = PagedStore(keys, page=10, page_s=0.002)
    found, seen = scan_ranges(store, "b/", 8), []
    for number, page in enumerate(found):
        seen += [one.path for one in page]
        if number % 10 == 0:  # the next that somebody begins with is gone, and another has come before it
            store.change(removed=f"b/{1999 - number:05d}", added=f"b/{1990 - number:05d}-new")
    assert len(seen) == len(set(seen))
    assert set(keys) - set(seen) <= store.removed
    assert set(seen) - set(keys) <= store.added


def test_an_error_of_any_lister_is_raised():
    store = PagedStore([f"b/{n:05d}" for n in range(600)], page=5, page_s=0.001)

    def failing(after: str | None, token: str | None) -> Page:
        if store.requests == 60:
            raise PermissionError("no more")
        return store(after, token)

    with pytest.raises(PermissionError, match="no more"):
        list(scan_ranges(failing, "b/", 8))


def test_who_stops_reading_stops_the_listers():
    store = PagedStore([f"b/{n:05d}" for n in range(6000)], page=5)
    found = scan_ranges(store, "b/", 8)
    next(found)
    next(found)
    found.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("lister-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert store.requests < 200  # what was asked for meanwhile


STUCK = """
import os, signal, time
from pipeline.storage.key_ranges import Page, scan_ranges
from pipeline.storage.store import Listed
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background of a shell ignores it
asked = []
def list_page(after, token):
    asked.append(after)
    if len(asked) > 1:
        os.write(1, b"waiting\\n")  # in one call: several listers get here at once
        time.sleep(600)
    return Page([Listed("b/1", 1), Listed("b/2", 1)], "next")
for page in scan_ranges(list_page, "b/", 4):
    pass
"""


def test_ctrl_c_does_not_wait_for_a_store_that_hangs():
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]


REAL = [name for name in KEYS if name not in ("none", "one name is the beginning of another", "thousands of folders")]


@pytest.mark.parametrize("keys", REAL)
def test_a_real_server_is_listed_as_one_lister_lists_it(s3, monkeypatch, keys):
    monkeypatch.setattr(s3_store, "LIST_PAGE", 3)
    root = f"{s3}/{uuid.uuid4().hex}"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: storage.put(f"{root}/{key}", key.encode()), KEYS[keys][::4]))
    many = {(file.path, file.bytes, file.etag, file.modified) for file in storage.scan(root)}
    monkeypatch.setattr(s3_store, "LISTERS", 1)
    one = [(file.path, file.bytes, file.etag, file.modified) for file in storage.scan(root)]
    assert many == set(one)
    assert len(many) == len(one)
    if keys != "empty names and signs":  # of `a///b`, this server forgets a slash
        assert {path for path, *_ in many} == set(KEYS[keys][::4])


def test_what_was_parsed_here_is_what_botocore_parses(s3, monkeypatch):
    root = f"{s3}/{uuid.uuid4().hex}"
    for number, name in enumerate(["a b", "t+e=&?#", "\u00fc/x", "n\nl", "x//y", "a%2Fb", "<&>\"'"]):
        storage.put(f"{root}/{name}", b"0" * number)
    fast = list(storage.scan(root))
    said = {"status_code": 200, "body": b"<html>a proxy's page</html>"}
    parse_listing(said, extra := {})
    assert FOUND not in extra and said["body"].startswith(b"<html>")
    monkeypatch.setattr(s3_store, "parse_listing", lambda **_: None)
    monkeypatch.setattr(s3_store, "LISTING", "maskmill-listing-by-botocore")
    assert list(storage.scan(root)) == fast
    assert [file.modified for file in storage.scan(root)] == [file.modified for file in fast]
    assert len(fast) == 7


def test_a_folders_mark_is_no_file(s3):
    root = f"{s3}/{uuid.uuid4().hex}"
    store, path = storage._store(f"{root}/a/1")
    bucket, _, key = path.partition("/")
    for name in (key, key.removesuffix("1")):
        store._fs.call_s3("put_object", Bucket=bucket, Key=name, Body=b"")
    assert [file.path for file in storage.scan(root)] == ["a/1"]


def test_a_bucket_that_is_not_there_lists_nothing(s3):
    assert list(storage.scan("s3://maskmill-not-there/a")) == []
