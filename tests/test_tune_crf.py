"""The search for CRF settings: on real Ray tasks, and its parts on a scene and on counts with known answers."""

import json

import numpy as np
import pytest

from pipeline import storage
from pipeline.config import CrfConfig, PredictConfig, SegmentConfig, load, parse
from pipeline.corpus import Item, Place, list_items
from pipeline.corpus.samples import load_pair
from pipeline.crf import dense_crf
from pipeline.metrics.boundary import count_boundary
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import mean_iou
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from pipeline.segment.checkpoints import load_checkpoints
from pipeline.segment.crf_search import CLASS_WEIGHTS, RANGES, Setting, chosen, count, halves, judge, search
from pipeline.segment.tune_crf import Tuned, _write, tune_crf


@pytest.mark.slow
def test_the_search_tells_what_each_setting_gives_on_images_it_did_not_see(
    ray_session, scenes, tiny_checkpoint, tmp_path
):
    own = {"iterations": 1, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 1, "colour_px": 5, "colour_levels": 9,
           "class_weights": {"car": 1.5}}  # fmt: skip
    values = {
        "corpus": {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"}, "split": "val",
        "checkpoint": tiny_checkpoint, "output": str(tmp_path / "tuned"), "crf": own, "max_reject_rate": 0, "actors": 1,
        "cpus_per_actor": 1,
    }  # fmt: skip
    cfg = parse(SegmentConfig, values, where="test")
    steps = []
    found = tune_crf(cfg, num_images=3, on_progress=lambda done, total: steps.append((done, total)))
    drawn = [list_items(cfg.corpus, "val")[index] for index in sorted(np.random.default_rng(0).permutation(6)[:3])]
    first, second, _ = halves(drawn)
    assert (found.images, found.judged_on) == (3, len(second))
    assert steps[0][1] == len(first) * (1 + 1 + 27)
    tried = [setting.crf for setting in found.settings]
    assert None in tried and CrfConfig(**own) in tried and len(tried) == len(set(tried)) > 29
    coarse = {crf.colour_px for crf in tried if crf and crf.smooth_weight == 3}
    assert coarse >= {30, 65, 100} and {crf.iterations for crf in tried if crf} == {1}
    assert [s.miou for s in found.settings] == sorted((s.miou for s in found.settings), reverse=True)

    # Two settings done again by hand, from half-precision scores as the search keeps them.
    ready = checkpoint.load(tiny_checkpoint)
    predictor, classes = Predictor(ready.model, PredictConfig()), ready.label_space.classes

    def miou(crf, places):
        confusion = np.zeros((19, 19), np.int64)
        for item in (drawn[place] for place in places):
            image, label = load_pair(item, ready.label_space, cfg.max_pixels)
            probs = predictor.probs([image])[0].numpy().astype(np.float16).astype(np.float32)
            marginals = probs if crf is None else dense_crf(probs, image, crf, classes=classes)
            mask = marginals.argmax(axis=0).astype(np.uint8)
            confusion += count_confusion(label, mask, 19)
        return mean_iou(confusion)

    assert found.settings[0].miou == miou(found.settings[0].crf, first)
    assert found.shared.setting.miou == miou(found.shared.setting.crf, second)

    record = json.loads(storage.read(str(tmp_path / "tuned/tune_crf.json")))
    assert (record["format"], record["shared"]["setting"]["miou"]) == (2, found.shared.setting.miou)
    written = load(SegmentConfig, str(tmp_path / "tuned/best.yaml"))
    assert written.crf == found.crf == chosen(found.judged)
    assert written.model_copy(update={"crf": cfg.crf}) == cfg


def test_a_class_weight_of_no_class_is_refused_before_anything_starts(scenes, tiny_checkpoint, tmp_path):
    values = {
        "corpus": {"images": scenes[0], "layout": "cityscapes"}, "checkpoint": tiny_checkpoint,
        "output": str(tmp_path), "crf": {"class_weights": {"lamp": 2}},
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"crf\.class_weights: there is no class 'lamp'; the classes are road, sidewalk"
    ):
        load_checkpoints(parse(SegmentConfig, values, where="test"))
    with pytest.raises(ValueError, match=r"crf\.class_weights\.pole"):
        parse(SegmentConfig, values | {"crf": {"class_weights": {"pole": -1}}}, where="test")


CLASSES = ("field", "wall", "pole")


def drawn_scene(seed):
    """Image, label and noisy scores of a field, a wall and two poles, each a pixel wide and nearly as dark as the field."""
    rng = np.random.default_rng(seed)
    label = np.zeros((40, 64), np.uint8)
    label[:, 40:], label[8:, 12], label[5:, 25] = 1, 2, 2
    image = np.array([(90, 90, 90), (190, 180, 170), (98, 94, 92)])[label] + rng.normal(0, 4, (40, 64, 3))
    logits = 1.5 * (np.arange(3)[:, None, None] == label) + rng.normal(0, 0.9, (3, 40, 64))
    raised = np.exp(logits)
    return image.clip(0, 255).astype(np.uint8), label, (raised / raised.sum(axis=0)).astype(np.float32)


def counted(settings, seeds):
    """Counts of settings over drawn scenes, as the tasks of a search count them."""
    tried = {}
    for crf in settings:
        rows = []
        for image, label, probs in map(drawn_scene, seeds):
            marginals = probs if crf is None else dense_crf(probs, image, crf, classes=CLASSES)
            mask = marginals.argmax(axis=0).astype(np.uint8)
            counts = count_confusion(label, mask, 3), count_boundary(label, mask, 3, (3,))
            rows.append(np.concatenate([one.ravel() for one in counts]))
        tried[crf] = np.stack(rows)
    return tried


def test_a_thin_class_gets_a_weight_that_saves_it_on_scenes_that_were_not_searched():
    own = CrfConfig(iterations=2, smooth_weight=3, smooth_px=3, colour_weight=4, colour_px=30, colour_levels=6)
    found = search(own, lambda settings: counted(settings, [0]), CLASSES)
    assert found.weighted is not None and found.weighted.class_weights.get("pole", 1) > 1
    assert not found.shared.class_weights
    assert found.weighted.model_copy(update={"class_weights": {}}) == found.shared
    assert found.settings[0].crf == found.weighted
    tried = counted([None, found.shared, found.weighted], range(1, 5))
    shared, weighted = judge(found.shared, tried, CLASSES), judge(found.weighted, tried, CLASSES)
    assert weighted.class_iou["pole"] > shared.class_iou["pole"] + 0.1
    assert chosen([shared, weighted]) == found.weighted


def items_of(number, sequences):
    places = [(f"{index:03d}", index % sequences) for index in range(number)]
    return [Item(name, Place(name), None, {"sequence": str(sequence)}) for name, sequence in places]


def test_whole_sequences_are_dealt_into_halves_where_there_are_enough():
    items = items_of(40, sequences=8)
    first, second, dealt = halves(items)
    assert dealt == "sequences" and sorted(first + second) == list(range(40)) and len(first) == len(second) == 20
    of = [{items[place].groups["sequence"] for place in half} for half in (first, second)]
    assert not of[0] & of[1]
    first, second, dealt = halves(items_of(41, sequences=2))
    assert dealt == "images" and sorted(first + second) == list(range(41)) and abs(len(first) - len(second)) == 1
    assert halves(items_of(41, sequences=2)) == (first, second, dealt)
    with pytest.raises(ValueError, match="needs two labelled images, one to judge on, and found 1"):
        halves(items_of(1, sequences=1))


def counts_of(right, images=30):
    """Counts of images of 100 pixels in two classes, of which about so many are right; no boundaries."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(images):
        good = int(np.clip(right + rng.integers(-3, 4), 0, 50))
        confusion = np.array([[good, 50 - good], [50 - good, good]])
        rows.append(np.concatenate([confusion.ravel(), np.ones(20, np.int64)]))
    return np.stack(rows)


def test_the_verdict_follows_the_paired_interval():
    crf = CrfConfig(iterations=1, smooth_weight=3, smooth_px=3, colour_weight=3, colour_px=30, colour_levels=3)
    classes = ("a", "b")
    better = judge(crf, {None: counts_of(30), crf: counts_of(35)}, classes)
    worse = judge(crf, {None: counts_of(35), crf: counts_of(30)}, classes)
    equal = judge(crf, {None: counts_of(30), crf: counts_of(30)}, classes)
    assert (better.helps, worse.helps, equal.helps) == (True, False, False)
    change, low, high = better.change["miou"]
    assert 0 < low <= change <= high
    assert better.class_change["a"][0] > 0 > worse.class_change["a"][0]
    assert equal.change["miou"] == (0, 0, 0)
    assert (chosen([better, worse]), chosen([worse, better]), chosen([worse, equal])) == (crf, crf, None)


def test_own_weights_of_classes_are_no_setting_that_treats_all_alike():
    own = CrfConfig(class_weights={"a": 1.5})

    def evaluate(settings):
        return {crf: counts_of(40 if crf and crf.class_weights.get("a") == 1.5 else 30) for crf in settings}

    found = search(own, evaluate, ("a", "b"))
    assert found.settings[0].crf == own and found.weighted == own
    assert not found.shared.class_weights


def test_the_ranges_are_deeplabs():
    """arXiv:1606.00915, section 4.1."""
    assert RANGES == {"colour_weight": (3, 6), "colour_px": (30, 100), "colour_levels": (3, 6)}
    assert 1 in CLASS_WEIGHTS


@pytest.mark.parametrize(
    "changes",
    [
        {"predict": {"scales": [0.5], "reduced_decode": True}},
        {"predict": {"tile": [64, 64]}, "stream_above_pixels": 10_000},
    ],
    ids=["reduced_decode", "stream_above_pixels"],
)
def test_a_config_that_no_crf_fits_is_refused_before_the_search(changes, tmp_path):
    values = {"corpus": {"images": "/nowhere"}, "checkpoint": "/nowhere", "output": str(tmp_path)} | changes
    with pytest.raises(ValueError, match=r"^tune-crf, which adds crf to the config.* crf"):
        tune_crf(parse(SegmentConfig, values, where="test"), 10)


def test_a_class_that_no_image_has_is_null_in_the_record(tmp_path):
    values = {"corpus": {"images": "/nowhere"}, "checkpoint": "/nowhere", "output": str(tmp_path)}
    label, crf = np.zeros((8, 8), np.uint8), CrfConfig()
    counts = count(label, label, len(CLASSES))[None]
    judged = judge(crf, {None: counts, crf: counts}, CLASSES)
    tuned = Tuned(2, 1, "images", [Setting(crf, 1, 1)], judged, judged, None)
    _write(parse(SegmentConfig, values, where="test"), tuned)
    record = json.loads(storage.read(str(tmp_path / "tune_crf.json")), parse_constant=pytest.fail)
    assert list(record["shared"]["class_iou"].values()) == [1, *[None] * (len(CLASSES) - 1)]
