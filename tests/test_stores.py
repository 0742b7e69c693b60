"""Runs work on each store that can create an object exclusively, and are refused on one that cannot."""

import http.server
import subprocess
import sys
import threading
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus import list_items
from pipeline.errors import UserError
from pipeline.runs import Lease, verify
from pipeline.storage import retry
from tests.ledger_play import rejecting, segment

STARTED = """
import sys
import ray
from pipeline.config import SegmentConfig, parse
from pipeline.segment.driver import segment
checkpoint, images, labels, output = sys.argv[1:]
corpus = {"images": images, "labels": labels, "layout": "cityscapes"}
values = {"corpus": corpus, "checkpoint": checkpoint, "output": output, "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}
try:
    segment(parse(SegmentConfig, values, where="test"))
except ValueError as error:
    print(type(error).__name__, error, "ray started:", ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.scorecard("fault", 25)
def test_a_run_on_a_store_without_exclusive_create_is_refused_before_ray_starts(scenes, tiny_checkpoint):
    """fsspec's memory looks for an object and then writes it: two writers can both be the first."""
    command = [sys.executable, "-c", STARTED, tiny_checkpoint, *scenes, "memory://bucket/run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout == (
        "UserError memory://bucket/run: a run cannot be written to memory://, which has no exclusive create: two writers "
        "would not see each other; give a path, or s3://, gs:// or az:// ray started: False\n"
    ), done.stderr


@pytest.mark.scorecard("fault", 25)
@pytest.mark.parametrize("uri", ["memory://run", "memory://bucket/folder/run"])
def test_no_lease_is_given_there(uri):
    with pytest.raises(UserError, match="has no exclusive create"), Lease(uri):
        pass
    assert storage.list_files(uri) == []


@pytest.mark.parametrize("store", ["folder", "s3", "gs", "az"])
def test_a_run_is_written_resumed_and_proved(store, request, tmp_path):
    root = str(tmp_path) if store == "folder" else f"{request.getfixturevalue(store)}/{uuid.uuid4().hex}"
    segment(f"{root}/run", rejecting(["val/s_3"]), twice=[0, 1])
    storage.delete(f"{root}/run/masks/part-00001.parquet")
    segment(f"{root}/run", rejecting(["val/s_3"]))
    proof = verify(f"{root}/run")
    assert (proof.masks, proof.rejects, proof.problems) == (4, 1, [])


@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow), "gs", "az"])
def test_of_many_who_create_an_object_one_is_first(store, request, tmp_path):
    root = str(tmp_path) if store == "folder" else f"{request.getfixturevalue(store)}/{uuid.uuid4().hex}"
    for number in range(5):
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(lambda n, at=number: storage.create(f"{root}/object-{at}", b"%d" % n), range(8)))
        assert sum(first) == 1
        assert storage.read(f"{root}/object-{number}") == b"%d" % first.index(True)


@pytest.mark.parametrize(("scheme", "extra", "package"), [("gs", "gcs", "gcsfs"), ("az", "azure", "adlfs")])
def test_a_store_whose_client_is_missing_names_what_installs_it(scheme, extra, package):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"  # as Python marks a module that cannot be imported
        "from pipeline import storage\n"
        f"try: storage.read('{scheme}://bucket/a')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert f"{scheme}:// needs a package that is not installed here (pip install 'maskmill[{extra}]')" in done.stdout, (
        done
    )


@pytest.mark.parametrize(
    ("says_size", "sentence"),
    [
        (
            True,
            "its server sends the whole file where a part of it is asked for, so it cannot be read in parts; copy it",
        ),
        (False, "its server does not say how many bytes it has, so it cannot be read in parts; copy it"),
    ],
)
def test_a_web_server_that_does_not_serve_parts_of_files_is_told(tmp_path, says_size, sentence):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", bytes(1 << 19))
    data = (tmp_path / "a.zip").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if says_size:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.zip"
        with pytest.raises(storage.NoRanges, match=sentence) as error:
            list_items(CorpusConfig(images=uri, layout="folder"), None)
        server.shutdown()
    assert retry.sentence(error.value).endswith("copy it to a disk or an object store")
