"""The guide's lines that verify a run without this package pass on complete runs, and find tampering."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs import verify
from tests.doc_blocks import blocks
from tests.small_run import Drawn, make_run
from tests.test_extend import Archive, extend, segment

(SCRIPT,) = (block.text for block in blocks("python") if block.page.name == "proof.md")
DRAWN = [Drawn(f"i{n}", None if n in (1, 4) else f"01{n}", label="012") for n in range(6)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Path(make_run(str(tmp_path_factory.mktemp("whole") / "run"), DRAWN))


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    """A copy, where the guide has it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "runs/demo/run"))


def prove():
    exec(compile(SCRIPT, "proof.md", "exec"), {})


def test_it_is_about_twenty_lines_and_knows_nothing_of_this_package():
    assert len(SCRIPT.splitlines()) <= 36
    assert "pipeline" not in SCRIPT and "maskmill " not in SCRIPT


def test_a_whole_run_passes(run):
    prove()


def test_an_extended_run_passes_and_its_changes_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = Archive(str(tmp_path), 10)
    archive.run = str(tmp_path / "runs/demo/run")
    segment(archive)
    archive.change()
    extend(archive)
    archive.remove("b/001")
    extend(archive)
    prove()
    changes = tmp_path / "runs/demo/run/generations/00002/changes.parquet"
    pq.write_table(pq.read_table(changes).slice(1), changes)
    with pytest.raises(AssertionError, match=r"changes\.parquet"):
        prove()


def _rewrite(path, change):
    """The part with other rows, as a writer that keeps the metadata leaves it."""
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def _edit(path, **values):
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | values))


def swapped_part(run):
    one, other = (run / f"masks/part-0000{n}.parquet" for n in (0, 2))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def deleted_row(run):
    _rewrite(run / "masks/part-00001.parquet", lambda table: table.slice(1))


def doubled_row(run):
    _rewrite(run / "masks/part-00001.parquet", lambda table: pa.concat_tables([table, table.slice(0, 1)]))


def edited_row(run):
    def change(table):
        at = table.column_names.index("confidence")
        return table.set_column(at, table.schema.field(at), pa.array([0.99] * table.num_rows, pa.float32()))

    _rewrite(run / "masks/part-00001.parquet", change)


def flipped_byte_in_a_mask(run):
    path = run / "masks/part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)


def edited_count(run):
    _edit(run / "_SUCCESS.json", rows=5)


def stale_part(run):
    shutil.copy(run / "masks/part-00001.parquet", run / "masks/part-00003.parquet")


def edited_plan(run):
    (path,) = (run / "plan").iterdir()
    _rewrite(path, lambda table: table.slice(1))


def moved_reject(run):
    (run / "rejects/part-00000.parquet").rename(run / "rejects/part-00001.parquet")


def truncated_file(run):
    path = run / "masks/part-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


TAMPERINGS = (
    swapped_part, deleted_row, doubled_row, edited_row, flipped_byte_in_a_mask, edited_count, stale_part, edited_plan,
    moved_reject, truncated_file,
)  # fmt: skip


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda one: one.__name__)
def test_each_tampering_is_found_by_the_guide_and_by_verify(run, tampering):
    tampering(run)
    with pytest.raises((AssertionError, OSError)):
        prove()
    try:
        assert verify(str(run)).problems
    except ValueError:  # the plan's
        assert tampering is edited_plan


def test_who_makes_the_hashes_anew_cannot_hide_a_missing_image_nor_keep_the_root(run):
    path = run / "masks/part-00001.parquet"
    before = json.loads((run / "_SUCCESS.json").read_text())
    _rewrite(path, lambda table: table.slice(1))
    data = path.read_bytes()
    footer = data[-int.from_bytes(data[-8:-4], "little") - 8 :]
    said = json.loads((run / "_SUCCESS.json").read_text())
    said["parts"]["masks/part-00001.parquet"] |= {
        "bytes": len(data), "footer_sha256": hashlib.sha256(footer).hexdigest()
    }  # fmt: skip
    leaves = said["files"] | {name: part["footer_sha256"] for name, part in said["parts"].items()}
    lines = "".join(f"{leaves[name]}  {name}\n" for name in sorted(leaves))
    said["root_sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    (run / "_SUCCESS.json").write_text(json.dumps(said))
    with pytest.raises((AssertionError, KeyError)):
        prove()
    assert said["root_sha256"] != before["root_sha256"]


def test_a_signature_of_ssh_keygen_holds_the_run(run, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    key, signers = tmp_path / "key", tmp_path / "allowed_signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers.write_text(f"you@example.org {key.with_suffix('.pub').read_text()}")
    said = run / "_SUCCESS.json"
    subprocess.run(["ssh-keygen", "-Y", "sign", "-f", key, "-n", "maskmill", said], check=True, capture_output=True)
    prove()  # the signature lies beside it
    assert verify(str(run)).problems == []
    check = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        signers,
        "-I",
        "you@example.org",
        "-n",
        "maskmill",
        "-s",
        f"{said}.sig",
    ]
    assert subprocess.run(check, input=said.read_bytes(), capture_output=True).returncode == 0
    edited_count(run)
    assert subprocess.run(check, input=said.read_bytes(), capture_output=True).returncode != 0
