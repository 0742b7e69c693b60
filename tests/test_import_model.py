"""Exported files (ONNX, torch.export, TorchScript) are imported as checkpoints that segment like any other."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import labels, models, storage
from pipeline.config import PredictConfig, SegmentConfig, TrainConfig, parse, parse_model
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.imaging.mask_png import decode_mask
from pipeline.models import checkpoint, export
from pipeline.models.import_model import Wanted, import_model
from pipeline.predict import Predictor
from pipeline.predict.choose_engine import choose
from pipeline.runs import SECONDS, Run, verify
from pipeline.segment.checkpoints import fitted, load_checkpoints
from pipeline.segment.driver import identity, segment
from pipeline.segment.estimate import estimate
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.street import draw_scene
from tests.chaos.nodes import children, title
from tests.command import maskmill
from tests.exported_files import CLASSES, reference, write
from tests.varied_network import varied_network

pytest.importorskip("onnxruntime")
SPACE = labels.space("camvid11")
EQUAL = 0.9999
AS_THEY_ARE = Wanted(mean=(0, 0, 0), std=(1, 1, 1))  # values of 0 to 1
FAMILIES = [
    {"name": "unet", "channels": 8, "depth": 2},
    {"name": "segnet", "variant": "basic", "upsampling": "bilinear"},
    {"name": "hourglass", "stacks": 1, "channels": 16, "depth": 2},
    {"name": "deeplabv1", "fc_channels": 32},
    {"name": "deeplabv3plus", "aspp_channels": 16, "low_level_channels": 8, "decoder_channels": 16},
]
FORMS = {"onnx": "onnx", "torch_export": "pt2"}
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [draw_scene(rng, HEIGHT, WIDTH)[0] for _ in range(8)]


@pytest.fixture(scope="module")
def pictures(images, tmp_path_factory):
    """A folder of the images, without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return str(folder)


@pytest.fixture(scope="module")
def exports(images, tmp_path_factory):
    """Makes (checkpoint, exported file) of a family and a form, once each."""
    made = {}

    def make(section, form):
        folder = tmp_path_factory.getbasetemp() / f"exports-{section['name']}"
        if section["name"] not in made:
            own = varied_network(section, CLASSES, images[0])
            checkpoint.save(str(folder / "own"), own, parse_model(section, where="test"), SPACE, {})
            made[section["name"]] = folder
        file = folder / f"model.{FORMS[form]}"
        if not file.exists():
            export.export(str(folder / "own"), form, str(file), HEIGHT, WIDTH)
        return str(folder / "own"), str(file)

    return make


def imported(file, output, wanted=AS_THEY_ARE, space=SPACE):
    import_model(str(file), wanted, space, str(output))
    return checkpoint.load(str(output), "trusted").model


def masks(model, pictures, **settings):
    return [prediction.mask for prediction in Predictor(model, PredictConfig(**settings)).masks(pictures)]


def values(image):
    """What a network that wants values of 0 to 1 sees of an image."""
    return (image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)


def config(corpus, uri, output, **changes):
    given = {
        "corpus": {"images": corpus, "layout": "folder"}, "checkpoint": str(uri), "output": str(output),
        "images_per_shard": 1, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, given | changes, where="test")


def rows(output):
    """image id -> its row without measured seconds."""
    found = [row for part in sorted(Path(output).glob("masks/*.parquet")) for row in pq.read_table(part).to_pylist()]
    return {row["image_id"]: {k: v for k, v in row.items() if k not in SECONDS} for row in found}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "section",
    [*FAMILIES[:2], *(pytest.param(one, marks=pytest.mark.long) for one in FAMILIES[2:])],
    ids=lambda one: one["name"],
)
def test_our_own_exports_come_back_with_the_checkpoints_labels(exports, images, tmp_path, section, form):
    own, file = exports(section, form)
    expected = masks(checkpoint.load(own).model, images)
    model = imported(file, tmp_path / "in", Wanted(trust=form != "onnx"))
    assert model.tile == (HEIGHT, WIDTH)
    assert len(np.unique(expected)) > 5
    assert (np.array(expected) == np.array(masks(model, images))).mean() >= EQUAL


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=() if form == "onnx" else pytest.mark.long) for form in FORMS]
)
def test_a_run_of_an_exported_file_survives_a_kill_resumes_and_verifies(
    ray_session, exports, images, pictures, tmp_path, form
):
    own, file = exports(FAMILIES[0], form)
    imported(file, tmp_path / "in", Wanted(trust=form != "onnx"))
    cfg = config(pictures, tmp_path / "in", tmp_path / "run", **({} if form == "onnx" else {"code": "trusted"}))
    killed = []

    def kill(progress):
        if progress.answered_now and not killed:
            killed.extend(pid for pid in children(os.getpid()) if "MapWorker" in title(pid))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    done = segment(cfg, kill)
    assert (done.rows, done.rejects) == (len(images), {})
    assert killed  # one, or two where that of the run before has not left yet
    assert done.engine == ("onnxruntime" if form == "onnx" else "torch")
    before = rows(cfg.output)
    expected = masks(checkpoint.load(own).model, images)
    found = [decode_mask(before[str(index)]["mask"]["bytes"]) for index in range(len(images))]
    assert (np.array(expected) == np.array(found)).mean() >= EQUAL
    assert verify(cfg.output).problems == []

    for part in sorted(Path(cfg.output, "masks").iterdir())[:3]:
        part.unlink()
    Path(cfg.output, "_SUCCESS.json").unlink()
    assert segment(cfg).answered_now == 3
    assert rows(cfg.output) == before
    assert verify(cfg.output).problems == []


def test_a_network_of_any_size_is_not_tiled_and_gives_the_references_labels(images, tmp_path):
    file = write(tmp_path / "net.onnx")
    model = imported(file, tmp_path / "in")
    assert (model.tile, model.multiple_of, model.cfg.batch, model.enlarges) == (None, 1, None, False)
    pictures = [images[0], images[1][:50, :71]]
    for picture, found in zip(pictures, masks(model, pictures), strict=True):
        expected = reference(file, values(picture))[0].argmax(0)
        assert len(np.unique(expected)) > 3
        assert (found == expected).mean() >= EQUAL


@pytest.mark.parametrize(("dtype", "number"), [("FLOAT", np.float32), ("FLOAT16", np.float16)])
def test_coarse_scores_are_enlarged_and_images_padded_to_their_stride(images, tmp_path, dtype, number):
    file = write(tmp_path / "net.onnx", stride=4, dtype=dtype)
    model = imported(file, tmp_path / "in")
    assert (model.multiple_of, model.cfg.stride, model.enlarges) == (4, 4, True)
    coarse = torch.from_numpy(reference(file, values(images[0]).astype(number)))
    expected = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0].argmax(0).numpy()
    assert (masks(model, [images[0]])[0] == expected).mean() >= EQUAL
    assert masks(model, [images[0][:50, :70]])[0].shape == (50, 70)


def test_probabilities_take_a_temperature_as_powers_of_them(images, tmp_path):
    file = write(tmp_path / "net.onnx", end="probs")
    predictor = Predictor(imported(file, tmp_path / "in"), PredictConfig(temperature=2))
    powers = np.sqrt(reference(file, values(images[0]))[0])
    np.testing.assert_allclose(predictor.probs([images[0]])[0].numpy(), powers / powers.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("end", ["logits", "probs"])
def test_uint8_images_in_either_order_go_in_as_they_are_and_are_tiled(images, tmp_path, layout, end):
    """A file of one size for batches of two; the image is two tiles high and three wide."""
    order = (0, 2, 3, 1) if layout == "NHWC" else (0, 1, 2, 3)
    shape = tuple(np.array((2, 3, 32, 32))[list(order)].tolist())
    file = write(tmp_path / "net.onnx", shape=shape, dtype="UINT8", layout=layout, end=end)
    model = imported(file, tmp_path / "in", Wanted())
    assert (model.cfg.batch, model.cfg.layout, model.cfg.scores, model.tile) == (2, layout, end, (32, 32))
    cfg = fitted(config("unused", tmp_path / "in", "unused"), checkpoint.load(str(tmp_path / "in")))
    assert cfg.predict.tile == (32, 32)
    (found,) = masks(model, [images[0]], tile=(32, 32))
    for top in (0, 32):
        for left in (0, 32, 64):
            tile = images[0][top : top + 32, left : left + 32].transpose(2, 0, 1)
            scores = reference(file, np.stack([tile, tile]).transpose(order))[0]
            expected = scores.argmax(-1 if layout == "NHWC" else 0)
            assert (found[top : top + 32, left : left + 32] == expected).mean() >= 0.999


@pytest.mark.parametrize("end", ["ids", "ids_nchw"])
def test_class_ids_give_masks_and_no_confidence(images, pictures, tmp_path, end):
    file = write(tmp_path / "net.onnx", end=end)
    model = imported(file, tmp_path / "in")
    assert model.gives_scores is False
    cfg = fitted(config(pictures, tmp_path / "in", tmp_path / "run"), checkpoint.load(str(tmp_path / "in")))
    found, rejects = ShardSegmenter(load_checkpoints(cfg), cfg).answer(list_items(cfg.corpus, None))
    assert rejects.num_rows == 0
    assert found["confidence"].null_count == found["entropy"].null_count == len(images)
    expected = reference(file, values(images[3])).reshape(HEIGHT, WIDTH)
    assert np.array_equal(decode_mask(found["mask"][3].as_py()["bytes"]), expected)


def test_a_dry_run_of_a_begun_run_knows_its_engine(pictures, tmp_path):
    """The config says nothing of an engine; what computes the file stands in the run's record."""
    imported(write(tmp_path / "net.onnx"), tmp_path / "in")
    cfg = config(pictures, tmp_path / "in", tmp_path / "run")
    ready = load_checkpoints(cfg)
    begun = fitted(cfg, ready)
    plan = plan_shards(list_items(cfg.corpus, None), cfg.images_per_shard)
    Run.open_or_create(
        cfg.output, identity(begun, ready), begun.model_dump(mode="json"), ready.label_space, lambda: plan
    )
    found = estimate(cfg, starting=True)
    assert (found.engine, found.done, found.pending_shards) == ("onnxruntime", 0, len(list_items(cfg.corpus, None)))
    assert estimate(cfg, rate=1.0).engine == "onnxruntime"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"crf": {}}, "crf"),
        ({"metrics": {"calibration_bins": 10}}, r"metrics\.calibration_bins"),
        ({"predict": {"scales": [0.5, 1], "flip": True}}, r"predict\.scales, predict\.flip"),
        ({"ensemble": ["/other"]}, "ensemble"),
        ({"predict": {"temperature": 2}}, r"predict\.temperature"),
        ({"confidence_map": True, "unknown_below": 0.4}, "confidence_map, unknown_below"),
    ],
)
def test_what_works_on_scores_is_refused_where_there_are_class_ids(tmp_path, changes, named):
    imported(write(tmp_path / "net.onnx", end="ids"), tmp_path / "in")
    ready = checkpoint.load(str(tmp_path / "in"))
    ready = ready if "ensemble" not in changes else dataclasses.replace(ready, others=(ready,))
    with pytest.raises(
        UserError, match=f"best class at each pixel and no scores, which {named} would need; leave that"
    ):
        fitted(config("unused", tmp_path / "in", "unused", **changes), ready)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus_per_actor": 1}, r"an exported file needs gpus_per_actor 0, found 1"),
        ({"predict": {"precision": "bf16"}}, r"needs predict\.precision fp32, found bf16"),
        (
            {"predict": {"tile": [64, 64]}},
            r"takes images of 32x48 alone, and predict\.tile is \[64, 64\]; set \[32, 48\]",
        ),
        ({"predict": {"scales": [0.5]}}, r"takes images of 32x48 alone, so leave predict\.scales out"),
    ],
)
def test_what_an_exported_file_does_not_do_is_refused(tmp_path, changes, words):
    imported(write(tmp_path / "net.onnx", shape=("n", 3, 32, 48)), tmp_path / "in")
    with pytest.raises(UserError, match=words):
        fitted(config("unused", tmp_path / "in", "unused", **changes), checkpoint.load(str(tmp_path / "in")))


def test_openvino_reads_the_file_itself(images, tmp_path):
    engines = pytest.importorskip("pipeline.predict.engines")
    pytest.importorskip("openvino")
    model = imported(write(tmp_path / "net.onnx", stride=4), tmp_path / "in")
    expected = masks(model, images[:2])
    for name in ("torch", "onnxruntime", "openvino"):
        engine = engines.build_engine(name, model, 1)
        assert engine.name == name
        found = [one.mask for one in Predictor(model, PredictConfig(), engine=engine).masks(images[:2])]
        assert (np.array(found) == np.array(expected)).mean() >= EQUAL
    choice = choose(model, PredictConfig(), images[:2], threads=1)
    assert [trial.engine for trial in choice.trials] == ["onnxruntime", "openvino"]
    assert all(trial.refused is None and trial.equal >= EQUAL for trial in choice.trials)
    with pytest.raises(UserError, match="engine compile: an exported file of form onnx is not computed by it"):
        engines.build_engine("compile", model, 1)


def test_the_run_is_bound_to_the_file(tmp_path):
    file, other = (write(tmp_path / f"{name}.onnx", bias=bias) for name, bias in (("net", 0), ("other", 1)))
    imported(file, tmp_path / "in")
    ready = checkpoint.load(str(tmp_path / "in"))
    sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert ready.identity["weights_sha256"] == ready.info["source_sha256"] == sha256
    assert Path(tmp_path / "in" / "model.onnx").read_bytes() == Path(file).read_bytes()
    shutil.copy(other, tmp_path / "in" / "model.onnx")
    with pytest.raises(UserError, match=rf"model\.onnx has sha256 .*says {sha256[:12]}; the file is damaged"):
        checkpoint.load(str(tmp_path / "in"))


def test_tensors_beside_the_file_are_taken_in(images, tmp_path):
    (tmp_path / "apart").mkdir()
    whole, apart = write(tmp_path / "net.onnx"), str(tmp_path / "apart" / "net.onnx")
    onnx.save(onnx.load(whole), apart, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    expected = masks(imported(whole, tmp_path / "whole"), images[:1])
    assert np.array_equal(masks(imported(apart, tmp_path / "in"), images[:1]), expected)
    assert not onnx.external_data_helper.uses_external_data(
        onnx.load(tmp_path / "in" / "model.onnx").graph.initializer[0]
    )

    storage.delete(f"{tmp_path}/apart/net.onnx.data")
    with pytest.raises(UserError, match=r"its tensors lie in net\.onnx\.data, which is not beside it; copy both"):
        imported(apart, tmp_path / "gone")
    proto = onnx.load(apart, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../net.onnx"
    onnx.save(proto, apart)
    with pytest.raises(UserError, match=r"keeps tensors in '\.\./net\.onnx', which is not a file in its own folder"):
        imported(apart, tmp_path / "outside")
    # The same in a checkpoint that somebody made by hand.
    description = json.loads((tmp_path / "in" / "checkpoint.json").read_text())
    data = Path(apart).read_bytes()
    (tmp_path / "in" / "model.onnx").write_bytes(data)
    description["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "in" / "checkpoint.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"2 of its tensors lie in other files, weight the first"):
        checkpoint.load(str(tmp_path / "in"))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, CLASSES, 3, padding=1)

    def forward(self, x):
        return {"out": self.conv(x), "aux": self.conv(x) * 2}


def program(path, module=None):
    """A torch.export file that takes any size."""
    any_size = torch.export.Dim.DYNAMIC
    shapes = ({0: any_size, 2: any_size, 3: any_size},)
    module = torch.nn.Conv2d(3, CLASSES, 3, padding=1) if module is None else module
    made = torch.export.export(module.eval(), (torch.zeros(2, 3, 64, 96),), dynamic_shapes=shapes)
    torch.export.save(made, path)
    return str(path)


def test_programs_are_loaded_only_where_the_user_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"net": Evil()}, "evil.pt")
    torch.save({"net": Evil()}, "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 11, 1), torch.zeros(1, 3, 8, 8)), "net.ts")
    for file, words in (
        ("evil.pt", "a pickled module, and loading it runs any code"),
        ("old.pt", "a pickled module, and loading it runs any code"),
        ("net.ts", "a TorchScript program, which can read and write files"),
        (program("net.pt2"), "a torch.export program, and torch runs code that was put into one"),
    ):
        with pytest.raises(UserError, match=f"{words}.*; give --trust if you trust whoever made it, or an ONNX file"):
            import_model(file, AS_THEY_ARE, SPACE, "in")
    assert not Path("code-ran").exists() and not Path("in").exists()
    trusted = Wanted(mean=(0, 0, 0), std=(1, 1, 1), trust=True)
    import_model("net.ts", trusted, SPACE, "in")
    with pytest.raises(UserError, match=r"a TorchScript program, .*if you trust whoever made it, set `code: trusted`"):
        checkpoint.load("in")
    with pytest.raises(UserError, match="it contains a dict instead of a network; for a file with only weights use"):
        import_model("evil.pt", trusted, SPACE, "other")
    assert Path("code-ran").exists()  # it would have, and is now


@pytest.mark.parametrize("form", ["program", "script", "pickle"])
def test_programs_give_the_modules_labels_and_the_output_that_is_named(images, tmp_path, form):
    torch.manual_seed(0)
    module = Net().eval()
    if form == "program":
        file = program(tmp_path / "net.pt2", module)
    elif form == "script":
        file = str(tmp_path / "net.ts")
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 8, 8), strict=False), file)
    else:
        file = str(tmp_path / "net.pt")
        torch.save(module, file)
    wanted = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "trust": True}
    with pytest.raises(UserError, match=r"2 outputs \(out, aux\); name that of the scores with --output-name"):
        imported(file, tmp_path / "in", Wanted(**wanted))
    model = imported(file, tmp_path / "in", Wanted(**wanted, output="out"))
    assert (model.tile, model.cfg.batch, model.cfg.output) == (None, None, "out")
    x = (torch.from_numpy(values(images[0])) - 0.5) / 0.25
    with torch.no_grad():
        expected = module(x)["out"][0].argmax(0).numpy()
    assert (masks(model, images[:1])[0] == expected).mean() >= EQUAL


BAD = [
    (lambda path: path.write_bytes(b"no onnx at all"), AS_THEY_ARE, "not a readable file of ONNX, torch.export or TorchScr"),
    (lambda path: path.write_bytes(b""), AS_THEY_ARE, "not a readable file of ONNX"),
    (
        lambda path: path.write_bytes(Path(write(path)).read_bytes()[:300]), AS_THEY_ARE, "not a readable file of ONNX",
    ),
    (
        lambda path: write(path, operator=("my.company", "Fancy")), AS_THEY_ARE,
        r"ONNX Runtime does not know the operator my\.company\.Fancy; export the network with ONNX's own",
    ),
    (lambda path: write(path, shape=None), AS_THEY_ARE, "its input does not say how many dimensions it has"),
    (lambda path: write(path, shape=("n", 3, "w")), AS_THEY_ARE, r"its input has 3 dimensions, \(any, 3, any\); it must"),
    (lambda path: write(path, classes=7), AS_THEY_ARE, r"its output is \(1, 7, .*'camvid11' has 11 classes; give --label"),
    (lambda path: write(path, classes=40, end="ids"), AS_THEY_ARE, r"the classes of 'camvid11', 0 to 10, are expected"),
    (
        lambda path: write(path, shape=("n", 4, "h", "w"), channels=4), AS_THEY_ARE,
        r"input \(any, 4, any, any\) has 4 channels as NCHW; only networks for red, green and blue are imported",
    ),
    (
        lambda path: write(path, shape=("n", 3, 64, 96)), Wanted(mean=(0, 0, 0), std=(1, 1, 1), layout="NHWC"),
        r"input \(any, 3, 64, 96\) has 96 channels as NHWC; give --layout NCHW",
    ),
    (lambda path: write(path, bias=float("nan")), AS_THEY_ARE, "its output for a noise image contains NaN or infinity"),
    (lambda path: write(path), Wanted(), "does not say how its network wants pixels; give --mean and --std"),
    (lambda path: write(path, dtype="UINT8"), AS_THEY_ARE, "its input is uint8, so it takes pixels as they are; leave"),
    (lambda path: write(path, dtype="INT32"), AS_THEY_ARE, "its input has type int32; float32, float16"),
    (lambda path: write(path, two=True), AS_THEY_ARE, r"2 outputs \(conv, other\); name that of the scores with --outp"),
    (
        lambda path: write(path, two=True), Wanted(mean=(0, 0, 0), std=(1, 1, 1), output="third"),
        r"has no output third; it has conv, other",
    ),
    (lambda path: write(path, shape=("n", 3, 64, "w")), AS_THEY_ARE, "its input is 64 x any; give the whole, --input-size"),
    (
        lambda path: write(path, shape=("n", 3, 64, 96)), Wanted(mean=(0, 0, 0), std=(1, 1, 1), size=(64, 64)),
        r"its input is 64x96 pixels \(height x width\), and --input-size says 64x64; leave it out",
    ),
    (lambda path: write(path, shape=(1, 3, 30, 31), stride=4), AS_THEY_ARE, "of 30x31 pixels are 7x7; they must be as"),
    (lambda path: None, AS_THEY_ARE, "no such file; give an .onnx or .pt2 file"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "wanted", "sentence"), BAD, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, make, wanted, sentence):
    make(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=sentence) as told:
        import_model(str(tmp_path / "net.onnx"), wanted, SPACE, str(tmp_path / "in"))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "in").exists()


def test_a_file_in_the_place_of_a_checkpoint_is_told_how_to_become_one(tmp_path):
    file = write(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=rf"turn it into one with `maskmill import-model {file} --label-space NAME"):
        checkpoint.load(file)


def test_an_exported_file_is_neither_trained_nor_exported_again(tmp_path):
    values = {"corpus": {"images": "x"}, "label_space": "camvid11", "output": "out"}
    with pytest.raises(UserError, match="model: an exported file cannot be trained, because its weights are constants"):
        parse(TrainConfig, values | {"model": {"name": "exported", "form": "onnx"}}, where="train.yaml")
    model = imported(write(tmp_path / "net.onnx"), tmp_path / "in")
    with pytest.raises(UserError, match="its network is an exported file already, which lies in that folder"):
        export.export(str(tmp_path / "in"), "onnx", str(tmp_path / "again.onnx"), HEIGHT, WIDTH)
    with pytest.raises(UserError, match="start_from: that checkpoint is an exported file, whose weights have no names"):
        models.fit_bands(models.build(parse_model(FAMILIES[0], where="test"), CLASSES), model)


def test_the_command_says_what_it_found(tmp_path):
    file, out = write(tmp_path / "net.onnx", shape=(1, 3, 32, 48), end="ids"), str(tmp_path / "in")
    told = maskmill(
        "import-model", file, "--label-space", "camvid11", "--mean", "0,0,0", "--std", "1,1/2,1", "--output", out
    )
    assert told.returncode == 0, told.stderr
    assert "onnx, float32 NCHW -> class ids, of 32x48 pixels alone" in told.stdout
    assert checkpoint.load(out).model.std == (1, 0.5, 1)
    told = maskmill(
        "import-model", file, "--label-space", "camvid11", "--mean", "0,0", "--std", "1,1,1", "--output", out
    )
    assert told.stderr.startswith("error: --mean: found '0,0'; give red, green and blue, such as 0.485,0.456,0.406")


def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    file = write(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs the package onnxruntime.* pip install 'maskmill\[onnxruntime\]'"):
        import_model(file, AS_THEY_ARE, SPACE, str(tmp_path / "in"))


def test_a_mask_of_true_and_false_is_class_ids(tmp_path):
    class Binary(torch.nn.Module):
        def forward(self, x):
            return x[:, 0] > 0.5

    torch.jit.script(Binary()).save(str(tmp_path / "net.ts"))
    two = labels.from_section({"classes": ["a", "b"]}, where="test")
    import_model(str(tmp_path / "net.ts"), dataclasses.replace(AS_THEY_ARE, trust=True), two, str(tmp_path / "out"))
    assert checkpoint.load(str(tmp_path / "out"), "trusted").model_config.scores == "ids"


def test_sizes_that_a_program_writes_as_minus_one_are_open(tmp_path):
    file = write(tmp_path / "net.onnx", shape=(-1, 3, -1, -1))
    model = imported(file, tmp_path / "in", AS_THEY_ARE)
    assert (model.tile, model.cfg.batch) == (None, None)
