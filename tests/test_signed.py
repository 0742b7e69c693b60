"""Web addresses with passwords and signatures: secrets stay in the manifest, and the files can be read."""

import base64
import csv
import http.server
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.analysis import write_report
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import list_items, reach, read
from pipeline.errors import Reject, UserError
from pipeline.runs import Run
from pipeline.segment.driver import segment
from tests.bad_inputs import picture
from tests.command import maskmill

PASSWORD, SIGNATURE = "p4ssw0rd-canary", "s1gnature-canary"


class Host(http.server.BaseHTTPRequestHandler):
    """Gives a PNG to whoever has the password (below /private) or today's signature (elsewhere)."""

    def do_GET(self):
        url = urlsplit(self.path)
        login = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        status = 200
        if url.path.startswith("/private"):
            status = 200 if self.headers.get("Authorization") == login else 401
        elif parse_qs(url.query).get("sig") != [self.server.signature]:
            status = 403
        elif "gone" in url.path:
            status = 404
        body = self.server.files.get(url.path, picture()) if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    """A web server on this machine; a manifest may name none, so what keeps it from that is off while it is listed."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.signature, server.files = SIGNATURE, {}
        server.at = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(reach, "_is_private", lambda host: False)
        yield server
        server.shutdown()


def write_manifest(uri, rows):
    """A CSV or a Parquet file of rows."""
    if uri.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), uri, row_group_size=3)
        return uri
    with open(uri, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return uri


def listed(uri):
    return list_items(CorpusConfig(images=uri, layout="manifest"), None)


@pytest.mark.slow
@pytest.mark.scorecard("security", 16)
def test_a_run_over_signed_addresses_answers_them_and_leaves_no_secret(
    s3, ray_session, tiny_checkpoint, tmp_path, host, capfd, caplog
):
    """Looked for in the run's folder, its report, Ray's logs, and what all commands print."""
    import ray

    caplog.set_level("DEBUG")
    names = [f"https://user:{PASSWORD}@{host.at}/private/a.png", f"https://{host.at}/b.png?X-Expires=9&sig={SIGNATURE}",
             f"https://{host.at}/gone.png?sig={SIGNATURE}", f"https://{host.at}/old.png?sig=old-{SIGNATURE}"]  # fmt: skip
    rows = [{"image": name.replace("https", "http"), "label": ""} for name in names]
    manifest = write_manifest(str(tmp_path / "m.csv"), rows)
    values = {
        "corpus": {"images": manifest, "layout": "manifest"}, "checkpoint": tiny_checkpoint,
        "output": str(tmp_path / "run"), "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    done = segment(parse(SegmentConfig, values, where="test"))
    assert (done.rows, done.rejects) == (2, {"not_found": 1, "store_error": 1})
    run = Run.open(values["output"])
    shown = {row["image_id"]: row["uri"] for table in run.plan.tables() for row in table.to_pylist()}
    assert shown == {f"{host.at}/{n}": f"http://{host.at}/{n}.png" for n in ("private/a", "b", "gone", "old")}
    write_report(values["output"])
    left = {file.uri: storage.read(file.uri) for file in storage.list_files(values["output"])}
    rejects = next(data for uri, data in left.items() if "/rejects/" in uri)
    said = {
        row["image_id"].split("/")[-1]: row["message"] for row in pq.read_table(pa.BufferReader(rejects)).to_pylist()
    }
    assert f"old.png (row 4 of {manifest}): the host answers 403 Forbidden; if its signature has expired" in said["old"]
    parts = (uri for uri in left if "/masks/" in uri or "/rejects/" in uri or "/plan/" in uri)
    left |= {
        f"{uri} as text": str(pq.read_table(uri).to_pylist()).encode() for uri in list(parts)
    }  # it may be compressed
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    left |= {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    for command in (
        ["verify", values["output"]],
        ["status", values["output"]],
        ["check", names[0]],
        ["check", names[1]],
    ):
        told = maskmill(*command, debug=True)
        left[" ".join(command)[:20]] = (told.stdout + told.stderr).encode()
    out = capfd.readouterr()
    left |= {"printed": (out.out + out.err).encode(), "logged": caplog.text.encode()}
    assert any(uri.endswith("report.html") for uri in left)
    secrets = [PASSWORD.encode(), SIGNATURE.encode(), base64.b64encode(f"user:{PASSWORD}".encode())]
    assert [uri for uri, data in left.items() if any(secret in data for secret in secrets)] == []

    host.signature = "a-longer-signature-of-tomorrow"
    fresh = [{"image": row["image"].split("?")[0] + "?sig=" + host.signature, "label": ""} for row in rows[1:]]
    write_manifest(manifest, [rows[0], *fresh])
    run.withdraw_rejects()
    done = segment(parse(SegmentConfig, values, where="test"))
    assert (done.rows, done.rejects) == (3, {"not_found": 1})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_signed_files_are_read_by_the_row_as_it_is_now(tmp_path, host, suffix):
    rows = [{"note": f'a "quoted", long\nnote {n}', "image": f"http://{host.at}/{n}.png?sig={SIGNATURE}&n={n}"}
            for n in range(200)]  # fmt: skip
    host.files = {f"/{n}.png": str(n).encode() for n in range(200)}
    if suffix == "csv":  # Arrow reads notes of one line
        rows = [row | {"note": row["note"].replace("\n", " ")} for row in rows]
    uri = write_manifest(str(tmp_path / f"m.{suffix}"), rows)
    items = listed(uri)
    assert [read(item.image) for item in items] == [item.image_id.split("/")[-1].encode() for item in items]
    assert len(items) == 200 and SIGNATURE not in str(items)
    host.signature = "tomorrow's, and longer"
    with pytest.raises(Reject, match="the host answers 403 Forbidden") as error:
        read(items[70].image)
    assert error.value.reason == "store_error" and error.value.__context__ is None
    fresh = [row | {"image": row["image"].replace(SIGNATURE, "tomorrow's, and longer")} for row in rows]
    fresh[5]["image"] = f"http://{host.at}/other.png?sig=1"
    write_manifest(uri, fresh)
    if suffix == "parquet":  # each thread keeps a row group as long as it finds its rows there
        read(items[0].image) if items[0].image.offset > 150 else None
    by_row = {item.image.offset: item for item in items}
    assert read(by_row[199].image) == b"199"
    with pytest.raises(Reject, match="the row names another file; restore the manifest") as error:
        read(by_row[5].image)
    assert error.value.reason == "source_changed"


def test_addresses_that_differ_in_what_is_secret_alone_need_ids_of_their_own(tmp_path, host):
    host.signature = "1"
    names = [f"http://{host.at}/image.png?sig={n}" for n in (1, 2)]
    with pytest.raises(UserError, match=r"two rows have the image id '.*/image'; give each its own image_id"):
        listed(write_manifest(str(tmp_path / "m.csv"), [{"image": name} for name in names]))
    rows = [{"image": name, "image_id": f"i{n}"} for n, name in enumerate(names)]
    one, two = listed(write_manifest(str(tmp_path / "m.csv"), rows))
    assert one.image.uri == two.image.uri and read(one.image) == picture()
    with pytest.raises(Reject, match="403"):
        read(two.image)


@pytest.mark.scorecard("security", 16)
@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (f"http://user:{PASSWORD}@localhost/a.png", "a host of this machine or its network"),
        (f"ftp://user:{PASSWORD}@host/a.png", "has the scheme 'ftp'"),
        (f"s3://user:{PASSWORD}@bucket/a.png", "holds a password, which s3:// takes from the store's own environment"),
        (f"https://user:{PASSWORD}/x@host/a.png", "cannot be parsed"),
        (f"https://user:{PASSWORD}@host/a.zip", "'https://host/a.zip' is an archive; a row names one image"),
        (f"zip://a.png::https://user:{PASSWORD}@host/a.zip", "a chain of stores"),
    ],
)
def test_no_refusal_of_a_manifest_tells_a_secret(tmp_path, uri, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        listed(write_manifest(str(tmp_path / "m.csv"), [{"image": uri}]))
    assert PASSWORD not in str(error.value)


@pytest.mark.scorecard("security", 16)
@pytest.mark.parametrize("uri", [f"https://user:{PASSWORD}@host/a.zip", f"https://host/a.zip?sig={PASSWORD}"])
def test_no_config_holds_a_secret(uri):
    with pytest.raises(UserError, match=r"'https://host/a\.zip' contains a user, a password or a query") as error:
        parse(CorpusConfig, {"images": uri, "layout": "camvid"}, where="test")
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:p@h:1/a/b.png?x=1#f", "https://h:1/a/b.png"), ("https://u@h/a@b.png", "https://h/a@b.png"),
        ("https://h/a.png#x", "https://h/a.png"), ("https://h?x=1", "https://h"), ("HTTP://u:p@h/a", "HTTP://h/a"),
        ("https://u:p@q@h/a", "https://h/a"), ("s3://b/a?b#c@d:e.png", "s3://b/a?b#c@d:e.png"),
        ("abfs://box@account.dfs/a.png", "abfs://box@account.dfs/a.png"), ("s3://k:s@b/a", "s3://b/a"),
        ("/a:b@c?d#e.png", "/a:b@c?d#e.png"), ("a?b.png", "a?b.png"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_uri(uri, shown):
    assert storage.without_secrets(uri) == shown
