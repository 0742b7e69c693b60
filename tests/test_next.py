"""What to label next: the least certain images, few of them alike, in a list that can be used as a corpus."""

import io
import itertools
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.manifest import read_ids, write_manifest
from pipeline.analysis.next_images import _spread
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus import list_items, plan_shards, read
from pipeline.imaging.mask_png import encode_mask
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema
from tests.command import maskmill
from tests.small_run import SPACE, Drawn, make_run
from tests.terminal import Terminal

DRAWN = (
    Drawn("a", "0000", label="0001", entropy=0.9, confidence=0.1),
    Drawn("b", "0011", entropy=0.5, confidence=0.6, city="x", sequence="1"),
    Drawn("c", "2222", entropy=0.4, confidence=0.4),
    Drawn("d", None),
    Drawn("e", "0111", label="....", entropy=0.2, confidence=0.5, city="x", sequence="1"),
    Drawn("f", "3333", entropy=0.3, confidence=0.8),
)


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return open_run(make_run(str(tmp_path_factory.mktemp("runs") / "small"), DRAWN))


def test_the_least_certain_images_without_labels_are_chosen(view):
    found = view.next(4)
    assert found.columns.tolist() == ["image_id", "city", "sequence", "entropy"]
    assert found["image_id"].tolist() == ["b", "c", "f", "e"]  # of e's label no pixel counts, d was rejected
    assert view.next(9, "confidence")["image_id"].tolist() == ["c", "e", "b", "f"]
    assert view.next(1, "confidence")["image_id"].tolist() == ["c"]
    assert view.next(1, labelled=True)["image_id"].tolist() == ["a"]
    assert view.next(2, skip=["b", "f"])["image_id"].tolist() == ["c", "e"]


def test_a_question_that_cannot_be_asked_is_one_sentence(view, tmp_path):
    for words, arguments in {
        "cannot choose images by 'size'; choose one of entropy, confidence, disagreement": {"by": "size"},
        "cannot choose 0 images": {"n": 0},
        "--by disagreement compares two runs: give both": {"by": "disagreement"},
        "cannot group by 'town'": {"groups": ["town"]},
        "all 4 images to choose from are in the lists to skip": {"skip": list("bcef")},
    }.items():
        with pytest.raises(ValueError, match=words):
            view.next(**arguments)
    with pytest.raises(ValueError, match="--by disagreement compares two runs: give both"):
        view.next(by="entropy", beside=view)
    known = open_run(make_run(str(tmp_path / "known"), [DRAWN[0]]))
    with pytest.raises(ValueError, match="all 1 images have labels already: take them too"):
        known.next()
    with pytest.raises(ValueError, match="no image in common"):
        known.next(by="disagreement", beside=open_run(make_run(str(tmp_path / "other"), [DRAWN[1]])))


def test_frames_of_one_sequence_do_not_fill_the_list(tmp_path):
    """Twenty frames of one drive are the least certain and all alike; nine other drives have two frames each."""
    drive = [Drawn(f"long/{k:02d}", "0001", city="x", sequence="0", entropy=1 - k / 100) for k in range(20)]
    others = [
        Drawn(f"s{k}/{frame}", f"{k}{k}{frame}{frame}", city="x", sequence=str(k), entropy=0.5 - k / 100)
        for k in range(1, 10)
        for frame in range(2)
    ]
    run = open_run(make_run(str(tmp_path / "run"), [*drive, *others], images_per_shard=7))
    found = run.next(8)
    assert len(found) == 8
    assert found["sequence"].value_counts().max() == 2  # twice the equal share of ten drives
    assert found["image_id"].tolist()[0] == "long/00"  # the least certain of all
    assert "long/01" not in found["image_id"].tolist()  # its mask is that of the first
    alone = open_run(make_run(str(tmp_path / "alone"), drive))
    assert len(alone.next(8)) == 8  # of one drive, for there is no other
    ungrouped = run.next(8, groups=[])
    assert sum(name.startswith("long") for name in ungrouped["image_id"]) == 1  # they are all one point of the shares


def test_a_group_is_overfilled_only_where_others_are_too_small(tmp_path):
    sizes = {"0": 12, "1": 1, "2": 1}
    drawn = [
        Drawn(f"{name}/{k:02d}", "0011", city="x", sequence=name, entropy=0.5)
        for name, size in sizes.items()
        for k in range(size)
    ]
    run = open_run(make_run(str(tmp_path / "run"), drawn))
    assert run.next(3)["sequence"].value_counts().max() <= 2
    assert run.next(12)["sequence"].value_counts().to_dict()["0"] >= 10
    assert len(run.next(99)) == 14


def test_spread_is_within_twice_the_best_spread():
    """Gonzalez 1985, theorem 2.2: no choice of k rows leaves a row less than half as far from its nearest chosen one."""
    random = np.random.default_rng(5)
    for _ in range(20):
        shares = random.dirichlet(np.full(4, 0.5), 9).astype(np.float32)
        distance = np.abs(shares[:, None] - shares[None]).sum(axis=2) / 2

        def reach(chosen, distance=distance):
            return distance[:, list(chosen)].min(axis=1).max()

        found = _spread(np.ones(9), shares, np.arange(9), 3)
        assert len(set(found)) == 3
        best = min(reach(chosen) for chosen in itertools.combinations(range(9), 3))
        assert reach(found) <= 2 * best + 1e-6


def test_disagreement_is_the_share_of_pixels_with_another_class(view, tmp_path):
    other = [
        Drawn("b", "0022"),
        Drawn("c", "2221"),
        Drawn("f", "3333"),
        Drawn("z", "0000"),
        Drawn("e", "2000"),
    ]
    beside = open_run(make_run(str(tmp_path / "other"), other, images_per_shard=3))
    found = view.next(9, "disagreement", beside)
    assert dict(zip(found["image_id"], found["disagreement"], strict=True)) == {"e": 1.0, "b": 0.5, "c": 0.25, "f": 0.0}
    assert view.next(1, "disagreement", beside)["image_id"].tolist() == ["e"]
    turned = open_run(make_run(str(tmp_path / "turned"), [Drawn("b", "00/11")]))
    with pytest.raises(ValueError, match=r"the mask of 'b' is 1x4, in the other run 2x2 \(height x width\)"):
        view.next(9, "disagreement", turned)


def test_the_list_is_a_corpus_of_the_same_images(view, tmp_path):
    chosen = view.next(3)
    uri = str(tmp_path / "next.csv")
    write_manifest(view, chosen, uri)
    items = list_items(CorpusConfig(images=uri, layout="manifest"), None)
    assert sorted(item.image_id for item in items) == sorted(chosen["image_id"])
    places = {item.image_id: item.image.uri for item in items}
    assert places["b"].endswith("small-corpus/image1.png")
    assert {item.image_id: dict(item.groups) for item in items}["b"] == {"city": "x", "sequence": "1"}  # and no entropy
    assert read_ids(uri) == chosen["image_id"].tolist()


def run_over(corpus, folder):
    """A run over any corpus, whose masks are all class 0; its images have no labels."""
    cfg = parse(
        SegmentConfig,
        {"corpus": corpus, "checkpoint": "none", "output": str(folder / "run"), "actors": 1, "cpus_per_actor": 1},
        where="test",
    )
    items = list_items(cfg.corpus, None)
    run = Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan_shards(items, 9))
    rows = [
        {"image_id": item.image_id, "uri": item.image.uri, "member": item.image.member, "height": 2, "width": 3,
         "mask": {"bytes": encode_mask(np.zeros((2, 3), np.uint8)), "path": "x.png"}, "pixels": [6] + [0] * 10,
         "entropy": 0.5, "confidence": 0.5}
        for item in items
    ]  # fmt: skip
    run.commit(0, pa.Table.from_pylist(rows, mask_schema(11)), pa.Table.from_pylist([], REJECT_SCHEMA))
    return open_run(cfg.output)


def picture(level):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "parquet"])
def test_images_of_an_archive_are_copied_beside_the_list(tmp_path, kind):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("x/one.png", picture(1))
            archive.writestr("x/two.png", picture(2))
        corpus = {"images": str(tmp_path / "a.zip"), "layout": "pairs", "image_glob": "**/*.png"}
    else:
        cells = [{"bytes": picture(level), "path": None} for level in (1, 2)]
        table = pa.table({"image": cells, "image_id": ["x/one", "x/two"]})
        pq.write_table(table, tmp_path / "a.parquet")
        corpus = {"images": str(tmp_path / "a.parquet"), "layout": "parquet"}
    view = run_over(corpus, tmp_path)
    chosen, uri = view.next(2), str(tmp_path / "out/next.csv")
    with pytest.raises(ValueError, match=r"a list cannot name it; copy the images beside the list \(--copy\)"):
        write_manifest(view, chosen, uri)
    write_manifest(view, chosen, uri, copy=True)
    items = list_items(CorpusConfig(images=uri, layout="manifest"), None)
    assert [(item.image_id, read(item.image)) for item in items] == [("x/one", picture(1)), ("x/two", picture(2))]
    assert items[0].image.uri == str(tmp_path / "out/next/x/one.png")


def test_a_list_in_a_store_does_not_name_files_of_this_machine(view):
    with pytest.raises(ValueError, match="is a local path, and the manifest is not"):
        write_manifest(view, view.next(1), "memory://lists/next.csv")
    assert not storage.exists("memory://lists/next.csv")


def test_lists_of_ids_are_csv_or_lines(tmp_path):
    lines = tmp_path / "ids.txt"
    lines.write_text("val/a\n\nval/b \n")
    assert read_ids(str(lines)) == ["val/a", "val/b"]
    table = tmp_path / "ids.csv"
    table.write_text('image,image_id\nx.png,"a,b"\ny.png,c\n')
    assert read_ids(str(table)) == ["a,b", "c"]
    table.write_text("image,split\nx.png,val\n")
    with pytest.raises(ValueError, match="it has no column image_id, found image, split"):
        read_ids(str(table))
    lines.write_text("\n")
    with pytest.raises(ValueError, match="it holds no image id"):
        read_ids(str(lines))
    with pytest.raises(ValueError, match="there is no such file"):
        read_ids(str(tmp_path / "none"))


def test_whole_numbers_stay_whole_numbers(tmp_path):
    run = open_run(make_run(str(tmp_path / "run"), [Drawn("a", "01", frame=7), Drawn("b", "01")]))
    chosen = run.next(2, groups=["frame"])
    write_manifest(run, chosen, str(tmp_path / "next.csv"))
    assert pd.read_csv(tmp_path / "next.csv", dtype=str)["frame"].tolist()[0] == "7"


def test_the_command_writes_the_list_and_says_what_comes_next(view, tmp_path):
    shown = maskmill("next", view.uri, "--by", "confidence", "--n", "2")
    assert shown.returncode == 0, shown.stderr
    assert "2 images to label next, by confidence" in shown.stdout and "0.4000" in shown.stdout
    file = str(tmp_path / "next.csv")
    done = maskmill("next", view.uri, "--n", "3", "--output", file)
    assert done.returncode == 0, done.stderr
    assert f"3 images: {file}" in done.stdout and f"--ids {file}" in done.stdout
    more = maskmill("next", view.uri, "--n", "3", "--skip", file)
    assert "1 image to label next, by entropy" in more.stdout
    wrong = maskmill("next", view.uri, "--output", str(tmp_path / "next.txt"))
    assert wrong.returncode == 1 and "is a CSV; give it a name that ends with .csv" in wrong.stderr


def test_ids_are_shown_whole_and_as_they_are_in_a_narrow_terminal(tmp_path):
    image_id = "leftImg8bit/val/frankfurt/frankfurt_000000_000294_[left]Img8bit"
    drawn = [Drawn(image_id, "01", city="[a]", sequence="1", entropy=0.5), Drawn("b", "01", city="x")]
    with Terminal("next", make_run(str(tmp_path / "run"), drawn), environment={"COLUMNS": "60"}) as terminal:
        assert terminal.ended(60) == 0
    lines = [line.split("│") for line in terminal.text.splitlines() if "│" in line]
    assert image_id in "".join(cells[1].strip() for cells in lines)
    assert [cells[2].strip() for cells in lines if cells[4].strip()] == ["[a]", "x"]
    assert [cells[3].strip() for cells in lines if cells[4].strip()] == ["1", "none"]
