"""A finished run is counted again, exactly: against other labels through a map of classes, and with merged classes."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.analysis import open_run
from pipeline.analysis.merging import Merging, parse_merges
from pipeline.config import ClassMap, CorpusConfig, parse, read_class_map
from pipeline.corpus import list_items
from pipeline.corpus.later import find_labels
from pipeline.errors import UserError
from pipeline.labels import space
from tests.command import maskmill
from tests.small_run import Drawn, make_run

CITY, CAMVID = space("cityscapes19"), space("camvid11")
MAP = {
    "sky": ["sky"], "building": ["building", "wall"], "pole": ["pole"], "road": ["road"], "pavement": ["sidewalk"],
    "tree": ["vegetation", "terrain"], "sign symbol": ["traffic sign", "traffic light"], "fence": ["fence"],
    "car": ["car", "truck", "bus"], "pedestrian": ["person"],
}  # fmt: skip  # neither bicyclist of camvid11, nor rider, train, motorcycle and bicycle of Cityscapes
SIZE = (24, 40)
IDS = [f"val/{sequence}_{frame:03}" for sequence in ("0001TP", "0006R0") for frame in range(3)]


def drawing(ids):
    """What `small_run` draws: one sign a pixel; classes above 15 do not occur in it."""
    return "/".join("".join("." if value == 255 else f"{value:x}" for value in row) for row in ids)


def blobs(rng, classes):
    """(H, W) of classes in blocks, with some single pixels, and some ignored."""
    ids = np.kron(rng.integers(0, classes, (6, 10)), np.ones((4, 4), int)).astype(np.uint8)
    noise = rng.random(SIZE)
    ids[noise < 0.2] = rng.integers(0, classes, int((noise < 0.2).sum()))
    return ids


@pytest.fixture(scope="module")
def city_run(tmp_path_factory):
    """A run in Cityscapes' space over six images of two sequences, without labels; its masks."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("city")
    masks = {image_id: blobs(rng, 16) for image_id in IDS}
    drawn = [Drawn(one, drawing(masks[one]), sequence=one[4:10], frame=int(one[-3:])) for one in IDS]
    return make_run(str(folder / "run"), drawn, space=CITY), masks


def png(stored):
    file = io.BytesIO()
    Image.fromarray(stored).save(file, format="PNG")
    return file.getvalue()


def write_labels(folder, labels):
    for image_id, stored in labels.items():
        path = folder / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(stored))
    return str(folder)


@pytest.fixture(scope="module")
def camvid_labels(tmp_path_factory):
    """camvid11 labels for all but the last of the images: stored ids, 11 = void."""
    rng = np.random.default_rng(1)
    labels = {image_id: blobs(rng, 12) for image_id in IDS[:-1]}
    return write_labels(tmp_path_factory.mktemp("labels"), labels), labels


def oracle(masks, labels, ids, rules):
    """(11, 12) counts in plain Python loops: truth, prediction; the last column is none of the labels' classes."""
    counts = np.zeros((11, 12), np.int64)
    of_model = {CITY.classes.index(member): CAMVID.classes.index(name) for name, own in MAP.items() for member in own}
    mapped = {CAMVID.classes.index(name) for name in MAP}
    for image_id in ids:
        for truth, found in zip(labels[image_id].ravel().tolist(), masks[image_id].ravel().tolist(), strict=True):
            if truth == 11 or (truth not in mapped and rules["labels"] == "ignored"):
                continue
            if found not in of_model:
                if rules["masks"] == "wrong":
                    counts[truth, 11] += 1
                continue
            counts[truth, of_model[found]] += 1
    return counts


@pytest.mark.parametrize("labels_rule", ["ignored", "wrong"])
@pytest.mark.parametrize("masks_rule", ["ignored", "wrong"])
def test_a_cityscapes_run_scored_on_camvid_labels_equals_the_oracle(city_run, camvid_labels, labels_rule, masks_rule):
    run, masks = city_run
    uri, labels = camvid_labels
    rules = {"labels": labels_rule, "masks": masks_rule}
    class_map = parse(ClassMap, {"classes": MAP, "unmapped": rules}, where="test")
    view = open_run(run).evaluated_on(uri, class_map, CAMVID)
    wanted = oracle(masks, labels, IDS[:-1], rules)
    found = view.confusion()
    assert found.dtype == np.int64
    assert found.tolist() == (wanted if masks_rule == "wrong" else wanted[:, :11]).tolist()
    assert int(view.counts("confusion")["images"].iloc[0]) == 5  # one has no label
    by = view.counts("confusion", by=["sequence"])
    for sequence in ("0001TP", "0006R0"):
        ids = [one for one in IDS[:-1] if sequence in one]
        expected = oracle(masks, labels, ids, rules)[:, : found.shape[1]]
        assert by.loc[sequence].tolist() == [len(ids), *expected.ravel().tolist()]


def test_scores_and_intervals_of_wrong_predictions_are_those_of_the_counts(city_run, camvid_labels):
    run, masks = city_run
    uri, labels = camvid_labels
    view = open_run(run).evaluated_on(uri, parse(ClassMap, {"classes": MAP}, where="test"), CAMVID)
    counts = oracle(masks, labels, IDS[:-1], {"labels": "wrong", "masks": "wrong"})
    right, predicted, labelled = np.diagonal(counts), counts[:, :11].sum(0), counts.sum(1)
    iou = right / (predicted + labelled - right)
    table = view.iou().iloc[0]
    assert table[list(CAMVID.classes)].to_numpy(float) == pytest.approx(iou)
    assert table["bicyclist"] == 0.0  # labelled, and never found
    assert table["miou"] == pytest.approx(iou.mean())  # over 11 classes: the twelfth column is none
    assert table["pixel_accuracy"] == pytest.approx(right.sum() / counts.sum())
    intervals = view.intervals()
    assert intervals.loc["miou", "value"] == pytest.approx(iou.mean())
    assert intervals.loc["miou", "low"] <= iou.mean() <= intervals.loc["miou", "high"]
    worst = view.worst(1, by="class:car").iloc[0]
    per_image = {}
    for one in IDS[:-1]:
        own = oracle(masks, labels, [one], {"labels": "wrong", "masks": "wrong"})
        per_image[one] = own[8, 8] / (own[:, 8].sum() + own[8].sum() - own[8, 8])
    assert (worst["image_id"], worst["class:car"]) == (
        min(per_image, key=per_image.get),
        pytest.approx(min(per_image.values())),
    )
    assert view.areas()["car"].iloc[0] == sum(int(np.isin(mask, [13, 14, 15]).sum()) for mask in masks.values())


def test_labels_of_the_runs_own_space_need_no_map(city_run, tmp_path):
    run, masks = city_run
    stored = {one: CITY.to_stored(masks[one]) for one in IDS}
    view = open_run(run).evaluated_on(write_labels(tmp_path / "labels", stored))
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks.values()]), minlength=19)
    assert view.confusion().tolist() == np.diag(counts).tolist()
    assert view.scores()["miou"].iloc[0] == 1.0


@pytest.mark.parametrize("form", ["archive", "manifest"])
def test_labels_are_found_in_other_layouts_than_the_images_are_in(form, city_run, camvid_labels, tmp_path):
    """The public CamVid archive, whose layout names the label space too; a table of image ids and labels."""
    run, masks = city_run
    _, labels = camvid_labels
    if form == "archive":
        uri = tmp_path / "CamVid.zip"
        with zipfile.ZipFile(uri, "w") as archive:
            for image_id, stored in labels.items():
                archive.writestr(f"CamVid/{image_id.replace('val/', 'valannot/')}.png", png(stored))
    else:
        write_labels(tmp_path / "labels", labels)
        uri = tmp_path / "labels.csv"
        rows = [f"{one},labels/{one}.png,labels/{one}.png" for one in labels]
        uri.write_text("\n".join(["image_id,image,label", *rows]))
    class_map = parse(ClassMap, {"classes": MAP}, where="test")
    view = open_run(run).evaluated_on(str(uri), class_map, None if form == "archive" else CAMVID)
    assert view.space == CAMVID
    assert view.confusion().tolist() == oracle(masks, labels, IDS[:-1], {"labels": "wrong", "masks": "wrong"}).tolist()


def merge_oracle(confusion, classes, groups):
    names = [next((group for group, members in groups.items() if name in members), name) for name in classes]
    merged = list(dict.fromkeys(names))
    counts = np.zeros((len(merged), len(merged)), np.int64)
    for row, truth in enumerate(names):
        for column, found in enumerate(names):
            counts[merged.index(truth), merged.index(found)] += confusion[row, column]
    return merged, counts


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory):
    """A run in camvid11 with labels, and masks before a CRF."""
    rng = np.random.default_rng(2)
    drawn = [
        Drawn(one, drawing(blobs(rng, 11)), drawing(blobs(rng, 11)), raw=drawing(blobs(rng, 11)), sequence=one[4:10])
        for one in IDS
    ]
    return make_run(str(tmp_path_factory.mktemp("labelled") / "run"), drawn)


def test_merged_counts_equal_the_oracle_in_every_group(labelled_run):
    view, groups = (
        open_run(labelled_run),
        {"moving": ["car", "pedestrian", "bicyclist"], "ground": ["road", "pavement"]},
    )
    merged = view.merged(groups)
    for raw in (False, True):
        names, wanted = merge_oracle(view.confusion(raw), CAMVID.classes, groups)
        assert merged.space.classes == tuple(names)
        assert merged.confusion(raw).tolist() == wanted.tolist()
    by, whole = merged.counts("confusion", by=["sequence"]), view.counts("confusion", by=["sequence"])
    for sequence in by.index:
        _, wanted = merge_oracle(whole.loc[sequence].to_numpy()[1:].reshape(11, 11), CAMVID.classes, groups)
        assert by.loc[sequence].tolist() == [3, *wanted.ravel().tolist()]
    areas = view.areas().iloc[0]
    assert merged.areas()["moving"].iloc[0] == areas["car"] + areas["pedestrian"] + areas["bicyclist"]
    assert merged.iou().loc["all", "images"] == 6
    assert merged.intervals().loc["ground", "value"] == pytest.approx(merged.iou()["ground"].iloc[0])
    assert merged.compare(view.merged(groups)).table["difference"].dropna().eq(0).all()
    assert "mask" not in merged.frame().columns
    with pytest.raises(UserError, match="without masks; ask the run itself"):
        merged.masks(IDS[:1])


def test_counts_above_2_53_stay_exact_when_merged():
    """Float64 would lose the last pixel."""
    fold = Merging.of(CAMVID, {"all": list(CAMVID.classes)}).matrix()
    huge = np.full((11, 11), 2**53 + 1, np.int64)
    assert (fold.T @ huge @ fold).tolist() == [[121 * (2**53 + 1)]]


def test_a_map_and_a_merge_follow_each_other(city_run, camvid_labels):
    run, masks = city_run
    uri, labels = camvid_labels
    groups = {"thing": ["car", "pedestrian", "bicyclist"]}
    view = open_run(run).evaluated_on(uri, parse(ClassMap, {"classes": MAP}, where="test"), CAMVID).merged(groups)
    counts = oracle(masks, labels, IDS[:-1], {"labels": "wrong", "masks": "wrong"})
    _, square = merge_oracle(counts[:, :11], CAMVID.classes, groups)
    last = np.array([counts[index, 11] for index in range(8)] + [counts[8:, 11].sum()])
    assert view.confusion().tolist() == np.column_stack([square, last]).tolist()


def test_the_command_prints_what_the_counts_say(city_run, camvid_labels, labelled_run, tmp_path):
    (tmp_path / "map.yaml").write_text(json.dumps({"classes": MAP, "unmapped": "ignored"}))
    done = maskmill(
        "evaluate", city_run[0], "--labels", camvid_labels[0], "--map", str(tmp_path / "map.yaml"), "--label-space", "camvid11",
        "--by", "sequence", "--merge", "thing=car+pedestrian",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out: 1 of 6 images have no label there" in done.stdout
    assert "thing" in done.stdout and "0006R0" in done.stdout
    done = maskmill("evaluate", labelled_run, "--map", str(tmp_path / "map.yaml"))
    assert done.returncode == 1
    assert "go with --labels" in done.stderr


BAD_MAPS = [
    ({"classes": {"lorry": ["truck"]}}, "'lorry' is not a class of the labels' camvid11: sky, building"),
    ({"classes": {"car": ["lorry"]}}, "car: 'lorry' is not a class of the run's cityscapes19: road, sidewalk"),
    ({"classes": {"car": ["car"], "pole": ["pole", "car"]}}, "'car' is mapped to both 'car' and 'pole'"),
    ({"classes": {"car": ["car", "car"]}}, "'car' is mapped to both 'car' and 'car'"),
]


@pytest.mark.parametrize(("values", "sentence"), BAD_MAPS)
def test_a_map_that_does_not_fit_is_refused_in_one_sentence(values, sentence, city_run, camvid_labels):
    with pytest.raises(UserError, match=sentence):
        open_run(city_run[0]).evaluated_on(camvid_labels[0], parse(ClassMap, values, where="test"), CAMVID)


def test_a_map_with_an_unknown_rule_or_from_nowhere_is_refused(tmp_path):
    (tmp_path / "map.yaml").write_text("{classes: {car: [car]}, unmapped: sometimes}")
    with pytest.raises(UserError, match="unmapped"):
        read_class_map(str(tmp_path / "map.yaml"))
    with pytest.raises(UserError, match=r"--map nowhere\.yaml: no such file"):
        read_class_map("nowhere.yaml")


def test_labels_that_do_not_fit_are_told_in_one_sentence(city_run, tmp_path):
    run, _ = city_run
    class_map = parse(ClassMap, {"classes": MAP}, where="test")
    zeros = np.zeros(SIZE, np.uint8)
    nobody = write_labels(tmp_path / "nobody", {"other/a": zeros})
    with pytest.raises(UserError, match="none of them belongs to any of the run's 6 images; tried layout"):
        open_run(run).evaluated_on(nobody, class_map, CAMVID)
    with pytest.raises(UserError, match="there is no file"):
        open_run(run).evaluated_on(str(tmp_path / "gone"), class_map, CAMVID)
    small = write_labels(tmp_path / "small", {IDS[1]: zeros[:-1]})
    with pytest.raises(UserError, match=f"{IDS[1]}: its label is 23x40, its mask 24x40"):
        open_run(run).evaluated_on(small, class_map, CAMVID)
    foreign = write_labels(tmp_path / "foreign", {IDS[0]: zeros + 77, IDS[3]: zeros + 77})
    with pytest.raises(
        UserError, match=f"label space camvid11 lacks: 77 on 1920 pixels in 2 files .{IDS[0]}, {IDS[3]}."
    ):
        open_run(run).evaluated_on(foreign, class_map, CAMVID)
    with pytest.raises(UserError, match=r"are in camvid11 and run .* in cityscapes19: give a map"):
        open_run(run).evaluated_on(write_labels(tmp_path / "good", {IDS[0]: zeros}), None, CAMVID)


BAD_MERGES = [
    ({"vehicle": ["car", "lorry"]}, "merge vehicle: 'lorry' is not a class of camvid11: sky, building"),
    ({"a": ["car"], "b": ["car", "road"]}, "merge b: 'car' is in 'a' too"),
    ({"a": ["car", "car"]}, "merge a: 'car' is in 'a' too"),
    ({"sky": ["car", "road"]}, "merge sky: there is a class 'sky' that is not merged"),
    ({"a": []}, "merge a: it has no class"),
]


@pytest.mark.parametrize(("groups", "sentence"), BAD_MERGES)
def test_a_merge_that_cannot_be_is_refused_in_one_sentence(groups, sentence, labelled_run):
    with pytest.raises(UserError, match=sentence):
        open_run(labelled_run).merged(groups)


def test_merges_are_read_from_words():
    assert parse_merges(["vehicle=car + truck", "flat=traffic sign"]) == {
        "vehicle": ["car", "truck"],
        "flat": ["traffic sign"],
    }
    for text in ("vehicle", "=car", "vehicle="):
        with pytest.raises(UserError, match="expected NAME=CLASS"):
            parse_merges([text])
    with pytest.raises(UserError, match="'a' is given twice"):
        parse_merges(["a=car", "a=bus"])


def test_later_labels_may_be_named_by_a_glob(tmp_path):
    for name, data in (
        ("photos/a.png", png(np.zeros((8, 8, 3), np.uint8))),
        ("truth/a_mask.png", png(np.zeros((8, 8), np.uint8))),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    cfg = CorpusConfig(images=str(tmp_path / "photos"), layout="folder")
    items, truth = list_items(cfg, None), str(tmp_path / "truth")
    for layout in ("pairs", None):
        (found,) = find_labels(cfg, items, truth, layout, "*_mask.png").items()
        assert found.label.uri.endswith("a_mask.png")
    with pytest.raises(UserError, match="layout 'pairs' needs a glob of the labels"):
        find_labels(cfg, items, truth, "pairs", None)
