"""Security checks of the scorecard that no package's own test covers; the others are marked in those tests."""

import ast
import os
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline import storage
from pipeline.analysis import write_report
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import list_items, read
from pipeline.corpus.readers import zip as zips
from pipeline.errors import Reject
from pipeline.imaging.decode import decode_image
from pipeline.models import checkpoint
from pipeline.segment.driver import segment
from pipeline.synthetic.scenes import write_corpus
from tests.command import maskmill
from tests.s3_server import SECRET

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "infra" / "requirements.lock").read_text()


def calls(*names):
    """(file, call) of every call of a function or method of one of these names in the package."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                yield path, node


def keywords(call):
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def locked():
    """package -> (version, number of hashes) of the lock."""
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.+!]+)", entry) for entry in entries)
    return {match[1]: (match[2], entry.count("--hash=sha256:")) for match, entry in zip(found, entries, strict=True)}


@pytest.mark.scorecard("security", 2)
def test_ray_is_pinned_and_its_token_mode_documented():
    version, hashes = locked()["ray"]
    assert tuple(map(int, version.split(".")[:2])) >= (2, 52) and hashes  # the first with token mode
    words = (ROOT / "infra" / "docs" / "clusters.md").read_text()
    assert "RAY_AUTH_TOKEN" in words and "CVE-2023-48022" in words
    for file in ("compose/compose.yaml", "vm/aws.yaml", "vm/gcp.yaml", "kuberay/cluster/raycluster.yaml"):
        assert re.search(r"RAY_AUTH_MODE|mode: token", (ROOT / "infra" / file).read_text()), file


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("code-ran",))


@pytest.mark.scorecard("security", 3)
def test_a_pickle_in_the_place_of_weights_is_refused_and_does_not_run(tiny_checkpoint, tmp_path, monkeypatch):
    import hashlib
    import json

    monkeypatch.chdir(tmp_path)
    torch.save({"w": Evil()}, "evil")
    description = json.loads(Path(tiny_checkpoint, "checkpoint.json").read_text())
    evil = Path("evil").read_bytes()
    storage.put(str(tmp_path / "model/model.safetensors"), evil)
    known = description | {"weights_sha256": hashlib.sha256(evil).hexdigest()}
    storage.put(str(tmp_path / "model/checkpoint.json"), json.dumps(known).encode())
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        checkpoint.load(str(tmp_path / "model"))
    assert not Path("code-ran").exists()
    torch.load("evil", weights_only=False)
    assert Path("code-ran").exists()  # it would have


@pytest.mark.scorecard("security", 3)
def test_no_code_of_a_pickle_is_let_run_but_of_exported_files_that_the_user_trusts():
    """The exception is `import-model --trust` and `code: trusted`; tests/test_import_model.py: without them nothing runs."""
    loads = [(path, call) for path, call in calls("load") if ast.unparse(call.func) == "torch.load"]
    assert loads
    unsafe = [path for path, call in loads if keywords(call).get("weights_only") != "True"]
    assert [path.relative_to(ROOT).as_posix() for path in unsafe] == ["pipeline/models/exported_file.py"]
    sources = {path: path.read_text() for path in (ROOT / "pipeline").rglob("*.py")}
    assert [
        path for path, text in sources.items() if re.search(r"^\s*(import|from) (pickle|dill|joblib)", text, re.M)
    ] == []


@pytest.mark.scorecard("security", 4)
def test_pillow_is_new_and_opens_listed_formats_alone():
    pillow = next(need for need in _needs() if need.startswith("Pillow"))
    assert pillow == "Pillow>=13"
    assert int(locked()["pillow"][0].split(".")[0]) >= 13
    opened = [(path, call) for path, call in calls("open") if ast.unparse(call.func).endswith("Image.open")]
    assert opened
    assert [(path, call.lineno) for path, call in opened if "formats" not in keywords(call)] == []
    with pytest.raises(Reject, match="no PNG, JPEG"):  # a format that starts an interpreter
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 1000)


@pytest.mark.scorecard("security", 5)
def test_archives_are_never_extracted():
    assert [(path, call.lineno) for path, call in calls("extract", "extractall", "unpack_archive", "extractfile")] == []


@pytest.mark.scorecard("security", 5)
def test_a_member_is_counted_while_it_is_inflated(tmp_path, monkeypatch):
    """The limit holds for the bytes that come, whatever the directory says of them."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/val/s_1.png", bytes(5_000_000))
        archive.filelist[0].file_size = 10
    monkeypatch.setattr(zips, "_MOST_BYTES", 1_000_000)
    (item,) = list_items(CorpusConfig(images=str(tmp_path / "a.zip"), layout="camvid"), None)
    with pytest.raises(Reject, match="inflates to more than 1000000 bytes") as found:
        read(item.image)
    assert found.value.reason == "too_large"


@pytest.mark.slow
@pytest.mark.scorecard("security", 8)
def test_a_canary_key_never_shows(s3, ray_session, tiny_checkpoint, tmp_path, capfd, caplog):
    """The store's secret, looked for in everything that a run and its report leave behind, and in what it prints."""
    import ray

    caplog.set_level("DEBUG")
    images, labels = write_corpus(storage.join(s3, "canary/corpus"), {"val": 2}, 32, 64, seed=1, packed=False)
    storage.put(storage.join(images, "leftImg8bit/val/dunmere/dunmere_000000_000000_leftImg8bit.png"), b"bad")
    values = {
        "corpus": {"images": images, "labels": labels, "layout": "cityscapes"}, "checkpoint": tiny_checkpoint,
        "output": storage.join(s3, "canary/run"), "max_reject_rate": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    segment(parse(SegmentConfig, values, where="test"))
    write_report(values["output"])
    left = {file.uri: storage.read(file.uri) for file in storage.list_files(values["output"])}
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    left |= {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    for command in (["verify", s3], ["status", values["output"]], ["check", "s3://no-such-bucket/x"]):
        done = maskmill(*command, debug=True)
        left[" ".join(command)] = (done.stdout + done.stderr).encode()
    out = capfd.readouterr()
    left |= {"printed": (out.out + out.err).encode(), "logged": caplog.text.encode()}
    assert len(left) > 10 and any(uri.endswith("report.html") for uri in left)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert [name for name, data in left.items() if SECRET.encode() in data] == []


@pytest.mark.scorecard("security", 9)
@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data", "http://2852039166/x", "http://0xa9.254.0xa9fe/x", "http://127.1/x",
        "http://localhost/x", "http://localhost./x", "http://store.localhost/x", "http://10.0.0.1/x",
        "http://metadata.google.internal/x", "https://user@127.0.0.1:80/x",
    ],
)  # fmt: skip
def test_a_manifest_reaches_no_host_of_this_network_however_it_is_written(tmp_path, uri):
    with pytest.raises(ValueError, match="a host of this machine or its network"):
        _listed(tmp_path, uri)


@pytest.mark.scorecard("security", 9)
def test_a_manifest_follows_no_link_out_of_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "real.png").write_bytes(b"x")
    (folder / "within.png").symlink_to(folder / "in" / "real.png")
    (folder / "file.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    assert len(_listed(folder, "within.png")) == 1
    for uri in ("file.png", "up/secret.png"):
        with pytest.raises(ValueError, match="a link that leads out of the manifest's folder"):
            _listed(folder, uri)


@pytest.mark.scorecard("security", 10)
def test_yaml_is_only_ever_read_safely():
    assert [(path, call.lineno) for path, call in calls("load", "unsafe_load", "full_load")
            if ast.unparse(call.func).startswith("yaml.")] == []  # fmt: skip


@pytest.mark.scorecard("security", 12)
def test_every_dependency_is_locked_with_hashes_and_installed_by_them():
    lock = locked()
    assert [name for name, (_, hashes) in lock.items() if not hashes] == []
    names = {re.match(r"[\w.-]+", need)[0].lower().replace("_", "-") for need in _needs()}
    assert sorted(names - lock.keys()) == []
    for file in ("Makefile", "infra/Dockerfile"):
        text = (ROOT / file).read_text()
        assert "--require-hashes" in text and "requirements.lock" in text, file


def _needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [need for part in (project["dependencies"], extras["demo"], extras["dev"]) for need in part]


def _listed(folder, uri):
    (folder / "m.csv").write_text(f"image\n{uri}\n")
    return list_items(CorpusConfig(images=str(folder / "m.csv"), layout="manifest"), None)
