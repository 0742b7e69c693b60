"""Every engine gives torch's labels, and a run keeps the engine that it was begun with."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import labels, models, storage
from pipeline.config import PredictConfig, SegmentConfig, parse, parse_model
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.models import Network, checkpoint, export
from pipeline.models.cpp_compiler import has_cpp_compiler
from pipeline.predict import Predictor, choose_engine, engines
from pipeline.predict.choose_engine import choose
from pipeline.predict.engines import Engine, build_engine
from pipeline.runs import Run, describe, verify
from pipeline.segment import engine as segment_engine
from pipeline.segment.checkpoints import load_bound
from pipeline.segment.driver import identity, segment
from pipeline.segment.engine import as_recorded, with_engine
from pipeline.segment.estimate import estimate
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.street import draw_scene
from tests.varied_network import varied_network

EQUAL = 0.9999
GRAPHS = ("onnxruntime", "openvino")
SMALL = {"name": "unet", "channels": 8, "depth": 2}
FAMILIES = [
    {"name": "lraspp"},
    {"name": "deeplabv3plus", "backbone": "efficientnet_lite0"},
    {"name": "fcn_resnet", "backbone": "resnet50"},
    {"name": "unet", "channels": 16, "depth": 3},
]
needs_engines = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in (*GRAPHS, "onnxscript")), reason="an engine is not installed"
)


def network(section, seed=0):
    torch.manual_seed(seed)
    return models.build(parse_model(section, where="test"), 19).eval()


def scenes_of(*sizes):
    rng = np.random.default_rng(0)
    return [draw_scene(rng, *size)[0] for size in sizes]


def masks(model, engine, images, **settings):
    batch = settings.pop("batch_size", 1)
    predictor = Predictor(model, PredictConfig(**settings), batch_size=batch, engine=engine)
    return [prediction.mask for prediction in predictor.masks(images)]


def share_equal(one, other):
    return sum(int((a == b).sum()) for a, b in zip(one, other, strict=True)) / sum(a.size for a in one)


def config(scenes, uri, output, **changes):
    values = {
        "corpus": {"images": str(scenes[0]), "labels": str(scenes[1]), "layout": "cityscapes"}, "checkpoint": uri,
        "output": str(output), "images_per_shard": 4, "actors": 1, "cpus_per_actor": 1, "split": "val",
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A checkpoint that exports in a second or two."""
    uri, cfg = str(tmp_path_factory.mktemp("unet")), parse_model(SMALL, where="test")
    checkpoint.save(uri, network(SMALL), cfg, labels.space("cityscapes19"), {"epoch": 0, "miou": 0.0})
    return uri


@needs_engines
@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_an_engine_gives_torchs_labels_at_any_size_batch_scale_and_tile(name):
    model = network(SMALL)
    engine = build_engine(name, model, threads=1)
    assert engine.name == name
    images = scenes_of((64, 128), (64, 128), (50, 70), (96, 64))
    for settings in ({"batch_size": 2}, {"scales": (0.5, 1.0), "flip": True}, {"tile": (32, 48), "overlap": 8}):
        expected = masks(model, None, images, **settings)
        assert len(np.unique(expected[0])) > 1
        assert share_equal(masks(model, engine, images, **settings), expected) >= EQUAL


@needs_engines
@pytest.mark.slow
@pytest.mark.parametrize("section", FAMILIES, ids=lambda section: section["name"])
def test_the_labels_of_four_families_are_torchs(section):
    images = scenes_of((128, 256), (128, 192), (100, 150))
    model = varied_network(section, 19, images[0])
    expected = masks(model, None, images)
    assert len(np.unique(expected[0])) > 1
    for name in GRAPHS:
        assert share_equal(masks(model, build_engine(name, model, threads=2), images), expected) >= EQUAL


@pytest.mark.slow
@pytest.mark.skipif(not has_cpp_compiler(), reason="no C++ compiler on this machine")
def test_a_compiled_network_gives_torchs_labels():
    model, images = network(SMALL), scenes_of((64, 128), (50, 70))
    assert share_equal(masks(model, build_engine("compile", model, 1), images), masks(model, None, images)) >= EQUAL


class Odd(Network):
    """Ends with an operator that ONNX has not."""

    min_size = multiple_of = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.special.i1(self.conv(x))]


@needs_engines
def test_an_operator_that_does_not_export_is_named():
    with pytest.raises(
        UserError, match=r"Odd does not export to ONNX: .*operator prims.bessel_i1; set engine: torch or compile"
    ):
        build_engine("onnxruntime", Odd().eval(), 1)


@needs_engines
@pytest.mark.slow
def test_an_engine_that_misreads_a_network_is_refused(monkeypatch):
    model = network(SMALL)
    monkeypatch.setattr(engines, "to_onnx", lambda other: export.to_onnx(network(SMALL, seed=1)))
    with pytest.raises(
        UserError, match=r"engine openvino: the logits of UNet differ from torch's by .*set engine: torch"
    ):
        build_engine("openvino", model, 1)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_missing_package_is_told(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(
        UserError, match=rf"engine {name} needs {name}, onnx, onnxscript, .*pip install 'maskmill\[{name}\]'"
    ):
        build_engine(name, network(SMALL), 1)


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"engine compile needs a C\+\+ compiler"):
        build_engine("compile", network(SMALL), 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus_per_actor": 1}, "engine onnxruntime needs gpus_per_actor 0, found 1"),
        (
            {"predict": {"precision": "bf16"}},
            "onnxruntime needs predict.precision fp32 or int8, found bf16; .*openvino",
        ),
        (
            {"engine": "torch", "predict": {"precision": "int8"}},
            "needs .*, found int8; .* set engine: onnxruntime or openvino",
        ),
        ({"engine": "auto", "predict": {"precision": "int8"}}, "engine auto needs predict.precision fp32, found int8"),
        ({"engine": "tensorrt"}, "engine tensorrt needs gpus_per_actor above 0, found 0: it computes on a GPU"),
        ({"predict": {"mode": "shift_and_stitch"}}, "needs predict.mode whole, found shift_and_stitch"),
    ],
)
def test_what_an_engine_does_not_do_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        config(("a", "b"), "c", "d", **{"engine": "onnxruntime"} | changes)


@needs_engines
def test_a_machine_without_tensorrt_is_told():
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has TensorRT")
    with pytest.raises(
        UserError, match=r"needs an ONNX Runtime with TensorrtExecutionProvider, found one with .*CPUExec"
    ):
        build_engine("tensorrt", network(SMALL), 1)


@pytest.mark.slow
@needs_engines
def test_bfloat16_takes_a_processor_that_has_it(unet):
    import openvino

    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if able:
        assert build_engine("openvino", checkpoint.load(unet).model, 1, "bf16").name == "openvino"
        return
    with pytest.raises(UserError, match="bf16 with engine openvino needs a processor with AVX512_BF16 or AMX"):
        build_engine("openvino", checkpoint.load(unet).model, 1, "bf16")


@needs_engines
@pytest.mark.slow
def test_a_network_that_was_exported_before_is_not_exported_again(unet, monkeypatch):
    ready = checkpoint.load(unet)
    onnx = engines.onnx_of(ready.model)
    monkeypatch.setattr(engines, "to_onnx", lambda model: pytest.fail("exported again"))
    assert engines.onnx_of(ready.model) is onnx
    images = scenes_of((64, 96))
    again = checkpoint.load(unet).model
    found = masks(again, build_engine("onnxruntime", again, 1, kept=onnx), images)
    assert share_equal(found, masks(again, None, images)) >= EQUAL
    monkeypatch.setattr(engines, "to_onnx", lambda model: onnx)
    for damaged in (b"", onnx[: len(onnx) // 2]):
        assert share_equal(masks(again, build_engine("onnxruntime", again, 1, kept=damaged), images), found) == 1


@needs_engines
@pytest.mark.slow
def test_an_int8_network_belongs_to_its_run(scenes, unet, tmp_path):
    ready = checkpoint.load(unet)
    cfg = config(scenes, unet, tmp_path / "run", engine="onnxruntime", predict={"precision": "int8"})
    begins = with_engine(cfg, ready, None)
    torchs, int8 = begins.choice.trials
    assert (torchs.precision, int8.precision) == ("fp32", "int8")
    assert 0.9 < int8.equal < 1  # rounded, and the same network
    assert "onnxruntime int8 " in begins.choice.words
    assert len(begins.ready.quantised) < len(engines.onnx_of(ready.model))
    begins.keep()
    run = begun(cfg, begins.ready)
    resumed = with_engine(*as_recorded_with(cfg, ready))
    assert resumed.ready.quantised == begins.ready.quantised
    assert Run.resumed(run.uri, identity(cfg, resumed.ready)).fingerprint == run.fingerprint
    other = replace(begins.ready, quantised=begins.ready.quantised + b" ")
    with pytest.raises(UserError, match="made with other settings: quantised_sha256"):
        Run.resumed(run.uri, identity(cfg, other))
    masks_here, _ = ShardSegmenter(load_bound(cfg), cfg).answer(run.shard_items(0))
    assert masks_here.num_rows == 4
    (kept,) = storage.list_files(f"{run.uri}/engine")
    storage.put(kept.uri, b"another")
    with pytest.raises(
        UserError, match=r"engine/int8-.*, the int8 network that it was begun with, is another file now"
    ):
        load_bound(cfg)


@needs_engines
@pytest.mark.slow
def test_int8_that_spoils_a_network_is_refused(scenes, unet, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_engine, "LEAST_EQUAL", 1.01)
    cfg = config(scenes, unet, tmp_path / "run", engine="onnxruntime", predict={"precision": "int8"})
    with pytest.raises(
        UserError, match=r"int8 spoils this network \(.*onnxruntime int8 .*: at least 101% of the labels must"
    ):
        with_engine(cfg, checkpoint.load(unet), None)


def as_recorded_with(cfg, ready):
    """What `with_engine` takes, of a run that is there."""
    found, recorded = as_recorded(cfg)
    return found, ready, recorded


@needs_engines
@pytest.mark.slow
def test_auto_takes_the_fastest_that_agrees(monkeypatch):
    model, images = network(SMALL), scenes_of((64, 128), (64, 128))
    choice = choose(model, PredictConfig(), images, threads=1)
    assert [trial.engine for trial in choice.trials] == ["torch", *GRAPHS]
    assert all(trial.refused is None and trial.equal >= EQUAL and trial.seconds > 0 for trial in choice.trials)
    assert choice.engine == min(choice.trials, key=lambda trial: trial.seconds).engine
    monkeypatch.setattr(choose_engine, "EQUAL", 1.01)
    refused = choose(model, PredictConfig(), images[:1], threads=1)
    assert refused.engine == "torch"
    assert "labels equal on 100.0000 %: at least 101.0 % are asked for" in refused.trials[1].words


@needs_engines
@pytest.mark.slow
def test_auto_says_why_an_engine_cannot_be_taken():
    choice = choose(Odd().eval(), PredictConfig(), scenes_of((32, 64)), threads=1)
    assert choice.engine == "torch"
    assert "onnxruntime: Odd does not export to ONNX" in choice.words


def begun(cfg, ready):
    """A run of which one shard is answered, as the driver begins it."""
    return Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space,
        lambda: plan_shards(list_items(cfg.corpus, cfg.split), 4), engines.PACKAGES[cfg.engine],
    )  # fmt: skip


@needs_engines
def test_a_run_keeps_its_engine(scenes, unet, tmp_path):
    ready = checkpoint.load(unet)
    cfg = config(scenes, unet, tmp_path / "run", engine="onnxruntime")
    run = begun(cfg, ready)
    info = describe(run.uri)
    assert (info.config["engine"], info.identity["engine"]) == ("onnxruntime", "onnxruntime")
    assert info.versions["onnxruntime"]
    assert as_recorded(config(scenes, unet, run.uri, engine="auto"))[0].engine == "onnxruntime"
    for other in ("torch", "openvino"):
        changed = config(scenes, unet, run.uri, engine=other)
        with pytest.raises(UserError, match=f"was made with engine onnxruntime, the config has {other}"):
            as_recorded(changed)
        with pytest.raises(UserError, match="made with other settings: engine"):
            Run.resumed(run.uri, identity(changed, ready))


def test_a_run_from_before_there_were_engines_is_torchs(scenes, unet, tmp_path):
    run = begun(config(scenes, unet, tmp_path / "run"), checkpoint.load(unet))
    assert "engine" not in describe(run.uri).config
    assert as_recorded(config(scenes, unet, run.uri, engine="auto"))[0].engine == "torch"
    with pytest.raises(UserError, match="was made with engine torch"):
        as_recorded(config(scenes, unet, run.uri, engine="openvino"))


@needs_engines
@pytest.mark.slow
def test_a_dry_run_tells_times_and_agreement(scenes, unet, tmp_path):
    found = estimate(config(scenes, unet, tmp_path / "run", engine="auto"), starting=True)
    assert all(f"{name} " in found.engine for name in ("torch", *GRAPHS))
    assert "labels equal on 100.0000 %" in found.engine
    assert not storage.exists(str(tmp_path / "run"))


@needs_engines
@pytest.mark.slow
def test_a_run_by_an_engine_has_torchs_labels_and_resumes(ray_session, scenes, unet, tmp_path):
    cfg = config(scenes, unet, tmp_path / "run", engine="onnxruntime")
    done = segment(cfg)
    assert (done.rows, done.rejects, done.engine) == (6, {}, "onnxruntime")
    assert verify(cfg.output).problems == []
    assert storage.exists(f"{cfg.output}/engine/fp32.onnx")
    run = Run.open(cfg.output)
    expected, _ = ShardSegmenter(checkpoint.load(unet), cfg.model_copy(update={"engine": "torch"})).answer(
        run.shard_items(0)
    )
    found, _ = ShardSegmenter(checkpoint.load(unet), cfg).answer(run.shard_items(0))
    pixels = [np.array(table["pixels"].to_pylist()) for table in (expected, found)]
    assert np.abs(pixels[0] - pixels[1]).sum() <= 2 * (1 - EQUAL) * pixels[0].sum()
    (part,) = [file.uri for file in storage.list_files(f"{cfg.output}/masks") if "part-00000" in file.uri]
    storage.delete(part)
    storage.delete(f"{cfg.output}/_SUCCESS.json")
    assert segment(cfg.model_copy(update={"engine": "auto"})).answered_now == 4
    assert verify(cfg.output).problems == []
    with pytest.raises(UserError, match="was made with engine onnxruntime"):
        segment(cfg.model_copy(update={"engine": "torch"}))


def test_the_engine_of_a_predictor_is_torch_unless_told():
    assert type(Predictor(network(SMALL), PredictConfig()).engine) is Engine
