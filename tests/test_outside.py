"""Networks from outside: they compute what their own libraries compute; users' code, its hash, and errors in it."""

import copy
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
import torch.nn.functional as F
import yaml

from pipeline import labels, models
from pipeline.cluster import submit
from pipeline.config import SegmentConfig, parse_model
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.hugging_face import combine_queries
from pipeline.predict.engines import build_engine
from pipeline.segment.driver import segment
from pipeline.train.driver import train
from pipeline.train.learner import Learner
from tests import small_train
from tests.cluster_configs import segment_values
from tests.local_ray import start_ray
from tests.outside_networks import DPT, MASK2FORMER, MASKFORMER, ONEFORMER, SEGFORMER, UPERNET

SPACE = labels.space("camvid11")
CLASSES = SPACE.num_classes
CODE = """from torch import nn


def make(num_classes, channels):
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.Conv2d(channels, num_classes, 1))
"""
MADE = {"name": "python", "build": "mynet:make", "arguments": {"channels": 4}}


def built(values, pretrained=False):
    return models.build(parse_model(values, where="test"), CLASSES, pretrained)


def noise(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    """A SegFormer as transformers saves it, with weights, the classes and the preprocessing of somebody else."""
    import transformers

    torch.manual_seed(0)
    place = tmp_path / "segformer"
    config = transformers.SegformerConfig.from_dict(SEGFORMER, num_labels=CLASSES)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(place)
    transformers.SegformerImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]).save_pretrained(place)
    return place


@pytest.fixture
def code(tmp_path):
    """A folder with a module mynet."""
    place = tmp_path / "networks"
    place.mkdir()
    (place / "mynet.py").write_text(CODE)
    return place


def test_a_segformer_gives_the_logits_of_transformers_and_its_checkpoint_needs_the_folder_no_more(folder, tmp_path):
    import transformers

    x = noise()
    theirs = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = F.interpolate(theirs(pixel_values=x).logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
    values = {"name": "transformers", "config": str(folder)}
    network = built(values, pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(network(x)[-1], expected, atol=1e-5)
    assert (network.mean, network.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))

    checkpoint.save(str(tmp_path / "model"), network, parse_model(values, where="test"), SPACE, {})
    shutil.rmtree(folder)
    again = checkpoint.load(str(tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(again.model(x)[-1], network(x)[-1])
    assert again.model.mean == (0.4, 0.5, 0.6)
    assert "config" not in again.identity["model"]


MOBILEVIT = {
    "model_type": "mobilevit", "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
    "image_size": 64, "aspp_out_channels": 16,
}  # fmt: skip
PROCESSORS = [
    (MOBILEVIT, "MobileViTImageProcessor", {}),
    (MOBILEVIT, "MobileViTImageProcessor", {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3]}),
    (SEGFORMER, "SegformerImageProcessor", {"do_normalize": False}),
    (SEGFORMER, "SegformerImageProcessor", {"do_rescale": False}),
    (SEGFORMER, "BeitImageProcessor", {"rescale_factor": 1 / 127.5}),
    (SEGFORMER, "BeitImageProcessor", {}),
]


@pytest.mark.parametrize("whole_file", [True, False])
@pytest.mark.parametrize(("architecture", "processor", "keys"), PROCESSORS)
def test_images_are_prepared_as_the_networks_own_processor_prepares_them(
    architecture, processor, keys, whole_file, tmp_path
):
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**architecture | {"num_labels": CLASSES})
    theirs = transformers.AutoModelForSemanticSegmentation.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    prepare = getattr(transformers, processor)(**keys)
    prepare.save_pretrained(tmp_path)
    if not whole_file:  # older releases name the class, and what differs from it
        written = {"feature_extractor_type": processor.replace("ImageProcessor", "FeatureExtractor"), **keys}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    prepared = prepare(image, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    network, given = built({"name": "transformers", "config": str(tmp_path)}, pretrained=True).eval(), []
    network.net.register_forward_pre_hook(lambda _, __, named: given.append(named["pixel_values"]), with_kwargs=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    with torch.no_grad():
        logits = network(((image / 255 - mean) / std)[None])[-1]
        expected = F.interpolate(theirs(pixel_values=prepared).logits, (64, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(given[0], prepared, rtol=1e-5, atol=1e-5)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [DPT, UPERNET], ids=lambda values: values["model_type"])
def test_a_network_of_transformers_takes_four_bands(architecture):
    cfg = parse_model({"name": "transformers", "config": "x", "architecture": architecture}, where="test")
    network = models.build(cfg, CLASSES, bands=4).eval()
    side = max(network.legal_size(64, 64))
    assert network(torch.zeros(1, 4, side, side))[-1].shape == (1, CLASSES, side, side)


def test_weights_in_several_files_come_from_a_store_too(folder, monkeypatch):
    import transformers

    network = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    found = built({"name": "transformers", "config": f"file://{folder}"}, pretrained=True)
    for name, value in network.state_dict().items():
        assert torch.equal(found.net.state_dict()[name], value), name


def test_weights_in_a_pickle_alone_are_refused_instead_of_random_ones(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for place in (folder, f"file://{folder}"):
        with pytest.raises(UserError, match=r"its weights are pytorch_model\.bin, a pickle, .*save_pretrained"):
            built({"name": "transformers", "config": str(place)}, pretrained=True)
    built({"name": "transformers", "config": str(folder)})


def test_the_weights_of_other_classes_come_without_their_head(folder, capfd):
    cfg = parse_model({"name": "transformers", "config": str(folder)}, where="test")
    capfd.readouterr()
    same, other = models.build(cfg, CLASSES, pretrained=True), models.build(cfg, 3, pretrained=True)
    for (name, value), mine in zip(same.backbone.named_parameters(), other.backbone.parameters(), strict=True):
        assert torch.equal(value, mine), name
    assert "Loading weights" not in capfd.readouterr().err
    random = models.build(cfg, 3)
    assert not all(
        torch.equal(a, b) for a, b in zip(random.backbone.parameters(), other.backbone.parameters(), strict=True)
    )


def test_a_unet_gives_the_logits_of_segmentation_models_pytorch():
    import segmentation_models_pytorch as smp

    network = built({"name": "smp", "arch": "unet", "encoder": "resnet18"}).eval()
    theirs = smp.create_model("unet", "resnet18", encoder_weights=None, classes=CLASSES).eval()
    theirs.load_state_dict({name.removeprefix("net."): value for name, value in network.state_dict().items()})
    with torch.no_grad():
        assert torch.allclose(network(noise())[-1], theirs(noise()), atol=1e-5)


@pytest.mark.parametrize("family", ["MaskFormer", "Mask2Former"])
def test_queries_are_combined_to_the_classes_that_transformers_finds(family):
    import transformers

    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 9, CLASSES + 1, generator=generator)
    masks = 4 * torch.randn(2, 9, 24, 24, generator=generator)
    size = (384, 384)  # of the images that Mask2Former's own step takes for granted
    processor = getattr(transformers, f"{family}ImageProcessor")()
    found = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    expected = torch.stack(processor.post_process_semantic_segmentation(found, target_sizes=[size] * 2))
    logits = combine_queries(classes, masks, size, enlarge_first=family == "Mask2Former")
    assert (logits.argmax(1) == expected).float().mean() > 0.9999
    assert len(expected.unique()) > 3


def with_tokenizer(place):
    """A tokenizer of CLIP's kind that knows the letters of OneFormer's task alone."""
    letters = sorted(set("thetaskissemantic"))
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>", "th", "the</w>"]
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


@pytest.mark.parametrize(
    ("family", "raw"), [("MaskFormer", MASKFORMER), ("Mask2Former", MASK2FORMER), ("OneFormer", ONEFORMER)]
)
def test_a_query_network_scores_the_classes_as_transformers_does_after_it(family, raw, tmp_path):
    """At 384x384, to which Mask2Former's own step enlarges masks, whatever the image's size."""
    import transformers

    torch.manual_seed(0)
    place = tmp_path / "network"
    config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(copy.deepcopy(raw), num_labels=CLASSES)
    theirs = getattr(transformers, f"{family}For{'Instance' if family == 'MaskFormer' else 'Universal'}Segmentation")(
        config
    )
    theirs.save_pretrained(place)
    values, x, task = {"name": "transformers", "config": str(place)}, noise(384, 384), {}
    if family == "OneFormer":
        with pytest.raises(
            ValueError, match=r"OneFormer is told its task in words, and there is no tokenizer .*vocab.json"
        ):
            built(values)
        with_tokenizer(place)
        processor = transformers.OneFormerProcessor(
            transformers.OneFormerImageProcessor(), transformers.AutoTokenizer.from_pretrained(place)
        )
        task["task_inputs"] = processor._preprocess_text(["the task is semantic"] * 2, config.task_seq_len)
    cfg = models.settled(parse_model(values, where="test"))
    network = models.build(cfg, CLASSES, pretrained=True).eval()
    with torch.no_grad():
        found, output = network(x)[-1], theirs.eval()(pixel_values=x, **task)
    processor = getattr(transformers, f"{family}ImageProcessor")
    sizes, scores = [(384, 384)] * 2, {"return_segmentation_scores": True}
    answers = processor.post_process_semantic_segmentation(None, output, target_sizes=sizes, **scores)
    assert torch.allclose(found.exp(), torch.stack([one.segmentation_scores for one in answers]), atol=1e-6)
    assert torch.equal(found.argmax(1), torch.stack([one.segmentation for one in answers]))

    checkpoint.save(str(tmp_path / "model"), network, cfg, SPACE, {})
    shutil.rmtree(place)  # of which the checkpoint needs nothing, the tokenizer neither
    with torch.no_grad():
        assert torch.equal(checkpoint.load(str(tmp_path / "model")).model(x)[-1], found)


def test_a_vision_transformer_that_takes_squares_alone_is_given_squares():
    network = built({"name": "transformers", "config": "none", "architecture": DPT}).eval()
    assert network.legal_size(64, 90) == (96, 96)
    with torch.no_grad():
        assert network(noise(96, 96))[-1].shape == (2, CLASSES, 96, 96)


@pytest.mark.parametrize(("form", "heads"), [("tensor", 1), ("dict", 2), ("list", 2)])
def test_every_form_of_output_becomes_logits_at_the_images_size(form, heads):
    arguments = {"form": form, "stride": 2}
    network = built({"name": "python", "build": "tests.outside_networks:build", "arguments": arguments})
    x, net = noise(), network.net
    logits = network.train()(x)
    assert [tuple(one.shape) for one in logits] == [(2, CLASSES, 64, 96)] * heads
    [last] = network.eval()(x)
    assert torch.equal(last, F.interpolate(net.head(net.encoder(x)), (64, 96), mode="bilinear", align_corners=False))
    assert network.fine_tuned() == [net.encoder]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"build": "tests.no_such:build"}, r"model.build tests.no_such:build: it cannot be imported .*no such module"),
        ({"build": "no_such.at_all:build"}, r"cannot be imported as a module that is installed here .*model.path"),
        ({"build": "tests.outside_networks:biuld"}, r"outside_networks.py has no function biuld; it has Small, build"),
        ({"build": "tests.outside_networks:raises"}, r"raised KeyError: 'depth' at .*outside_networks.py:\d+ when it"),
        ({"arguments": {"width": 3}}, r"raised TypeError: .*'width' at .* when it was called with num_classes, width"),
        ({"build": "tests.outside_networks:no_module"}, r"gave a int; it must return a torch.nn.Module"),
        ({"build": "tests.outside_networks:too_many"}, r"output has 12 classes and the label space 11"),
        ({"arguments": {"form": "flat"}}, r"an output of the network is of shape \(1, 11\); allowed are tensors"),
        (
            {"arguments": {"form": "turned"}},
            r"image of 64x96 pixels is 96x64: it has a stride of 0.667 down and of 1.5 across; let",
        ),
        ({"arguments": {"form": "nan"}}, r"holds NaN or infinity"),
        ({"arguments": {"form": "fails"}}, r"fails on an image of 64x96 pixels \(RuntimeError: no such luck at"),
        ({"backbone": "trunk"}, r"model.backbone: the network has no part trunk; at its top are encoder, head"),
        ({"path": "/no/such"}, r"model.path /no/such: no such folder on this machine"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        built({"name": "python", "build": "tests.outside_networks:build", **values})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "smp", "arch": "unt"}, r"makes no arch unt with encoder resnet34 \(KeyError: .*deeplabv3plus"),
        ({"name": "smp", "encoder": "resnet1"}, r"Wrong encoder name `resnet1`"),
        (
            {"name": "transformers", "config": "x", "architecture": {"model_type": "bert"}},
            r"model_type bert is not a semantic segmentation network; known are .*mask2former.*segformer",
        ),
        (
            {"name": "transformers", "config": "x", "architecture": ONEFORMER},
            r"OneFormer is told its task in 24 numbers, model.architecture.task_tokens, found 0; leave",
        ),
        (
            {"name": "transformers", "config": "x", "architecture": {"model_type": "nett"}},
            r"knows no model_type 'nett'",
        ),
    ],
)
def test_what_a_library_does_not_have_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(values)


@pytest.mark.parametrize(
    ("values", "module", "extra"),
    [
        ({"name": "smp"}, "segmentation_models_pytorch", "smp"),
        ({"name": "transformers", "config": "x", "architecture": SEGFORMER}, "transformers", "transformers"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(values, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"needs the package {module}.* pip install 'maskmill\[{extra}\]'"):
        built(values)


def test_a_checkpoint_refuses_other_code_than_it_was_trained_with(code, tmp_path):
    values = MADE | {"path": str(code)}
    network = built(values)
    checkpoint.save(str(tmp_path / "model"), network, parse_model(values, where="test"), SPACE, {})
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(code, elsewhere, ignore=shutil.ignore_patterns("__pycache__"))
    moved = checkpoint.load(str(tmp_path / "model"), code=str(elsewhere))
    assert moved.identity == checkpoint.load(str(tmp_path / "model"), code=str(code)).identity
    x = noise()
    with torch.no_grad():
        assert torch.equal(moved.model.eval()(x)[-1], network.eval()(x)[-1])

    wanted = moved.model_config.code_sha256
    (elsewhere / "mynet.py").write_text(CODE.replace("3, 2, 1", "3, 1, 1"))
    [found] = {models.settled(parse_model(MADE | {"path": str(elsewhere)}, where="test")).code_sha256}
    with pytest.raises(
        ValueError, match=rf"has sha256 {found[:12]}, and that of this network's training had {wanted[:12]}"
    ):
        checkpoint.load(str(tmp_path / "model"), code=str(elsewhere))
    assert built(MADE | {"path": str(elsewhere)}).enlarges is False  # the new code, in the same process


def test_no_code_runs_that_a_checkpoint_names_and_the_user_does_not(code, tmp_path):
    """A checkpoint of a stranger may name any function that is installed here, with arguments."""
    values = MADE | {"path": str(code)}
    model = str(tmp_path / "model")
    checkpoint.save(model, built(values), parse_model(values, where="test"), SPACE, {})
    with pytest.raises(ValueError, match=r"its network is Python code, mynet:make, .*`code: FOLDER`"):
        checkpoint.load(model)
    with pytest.raises(ValueError, match=r"model.build torch.hub:load: .*torch is the name of another module"):
        built(MADE | {"path": str(code), "build": "torch.hub:load"})
    (code / "mynet.py").write_text("from torch.hub import load\n")
    with pytest.raises(ValueError, match=r"load is none of the code in .*networks"):
        built(MADE | {"path": str(code), "build": "mynet:load"})


def test_a_module_of_ours_is_not_shadowed(code):
    (code / "pipeline.py").write_text(CODE)
    with pytest.raises(ValueError, match=r"pipeline is the name of another module, .*rename yours"):
        built(MADE | {"path": str(code), "build": "pipeline:make"})


def test_another_run_starts_from_the_weights_of_a_network_from_outside(code):
    torch.manual_seed(0)
    first, second = (built({"name": "smp", "encoder": "resnet18"}) for _ in range(2))
    copied, left = models.start_from(second, first.state_dict())
    assert left == []
    assert torch.equal(first(noise())[-1], second(noise())[-1]), len(copied)


def test_code_travels_with_a_job_and_is_found_there(code, tmp_path, monkeypatch):
    (code / "notes.txt").write_text("read by the network")
    (code / ".git").mkdir()
    (code / ".git" / "config").write_text("secret")
    train_values = json.loads(small_train.config(("s3://b/i.zip", "s3://b/l.zip"), "s3://b/run").model_dump_json())
    train_values["model"] = MADE | {"path": str(code)}
    segment_config = segment_values("s3://bucket") | {"code": str(code)}
    for kind, values in (("train", train_values), ("segment", segment_config)):
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump(values))
        job = submit.prepare(kind, str(tmp_path / f"{kind}.yaml"), None)
        package = tmp_path / kind
        submit.pack(job, package)
        assert sorted(p.name for p in (package / "code" / "networks").iterdir()) == ["mynet.py", "notes.txt"]
        sent = yaml.safe_load((package / "config.yaml").read_text())
        assert (sent["model"]["path"] if kind == "train" else sent["code"]) == "code/networks"
    hash_here = models.settled(parse_model(train_values["model"], where="test")).code_sha256
    shutil.rmtree(code)
    sent = yaml.safe_load((tmp_path / "train" / "config.yaml").read_text())
    with monkeypatch.context() as job:
        job.chdir(tmp_path / "train")
        cfg = models.settled(parse_model(sent["model"], where="test"))
    assert cfg.code_sha256 == hash_here
    with monkeypatch.context() as worker:  # on another node, where the driver's folder is not
        worker.syspath_prepend(str(tmp_path / "segment"))
        assert built(cfg.model_copy(update={"path": "/driver/code/networks"}).model_dump()).num_classes == CLASSES


def test_training_refuses_a_builder_that_raises_before_a_cluster_starts(scenes, tmp_path):
    cfg = small_train.config(
        scenes, tmp_path / "run", model={"name": "python", "build": "tests.outside_networks:raises"}
    )
    connected = ray.is_initialized()  # by another test's session
    with pytest.raises(ValueError, match=r"raised KeyError: 'depth' at .*outside_networks.py"):
        train(cfg)
    assert ray.is_initialized() is connected


def test_the_encoder_learns_at_its_own_rate_and_can_be_frozen(scenes, tmp_path):
    model = {"name": "python", "build": "tests.outside_networks:build"}
    cfg = small_train.config(scenes, tmp_path / "run", model=model, workers=1, freeze_backbone=True)
    learner = Learner(cfg, 19, None, 0, 1, torch.device("cpu"))
    learnt = [name for name, p in learner.network.named_parameters() if p.requires_grad]
    assert learnt == ["net.head.weight", "net.head.bias"]


def test_the_configs_mean_counts_before_that_of_the_checkpoint_that_training_starts_from(scenes, tmp_path):
    model = {"name": "python", "build": "tests.outside_networks:build"}
    first = parse_model(model | {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, where="test")
    checkpoint.save(str(tmp_path / "first"), models.build(first, CLASSES), first, SPACE, {})
    for given, expected in (({}, (0.1, 0.2, 0.3)), ({"mean": (0.7, 0.8, 0.9)}, (0.7, 0.8, 0.9))):
        cfg = small_train.config(
            scenes, tmp_path / "run", model=model | given, workers=1, start_from=str(tmp_path / "first")
        )
        network = Learner(cfg, CLASSES, None, 0, 1, torch.device("cpu")).network
        assert (network.mean, network.std) == (expected, (0.4, 0.5, 0.6))


@pytest.mark.slow
def test_an_engine_that_fails_on_a_network_says_so_and_names_torch():
    """The graph of UPerNet's pooling is exported and cannot be run: `engine: auto` passes over it by this error."""
    network = built({"name": "transformers", "config": "none", "architecture": UPERNET}).eval()
    with pytest.raises(
        UserError, match=r"engine onnxruntime: it fails on HuggingFace \(.*Gather.*\); set engine: torch"
    ):
        build_engine("onnxruntime", network, 1)


@pytest.fixture
def two_cores():
    start_ray(2)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("transformers", {}),
        pytest.param("transformers", {"parallel": "fsdp"}, marks=pytest.mark.long),
        pytest.param("smp", {}, marks=pytest.mark.long),
        ("python", {}),
    ],
)
def test_a_network_from_outside_is_trained_ten_steps_and_segments(
    name, options, scenes, folder, code, tmp_path, two_cores
):
    model = {
        "transformers": {"name": "transformers", "config": str(folder)},
        "smp": {"name": "smp", "encoder": "resnet18", "arguments": {"decoder_channels": [32, 16, 16, 8, 8]}},
        "python": MADE | {"path": str(code)},
    }[name]
    cfg = small_train.config(scenes, tmp_path / "run", model=model, epochs=5, **options)
    trained = train(cfg)
    losses = small_train.curve(cfg.output)
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3])
    described = json.loads((tmp_path / "run" / "best" / "checkpoint.json").read_text())
    assert described["model"]["name"] == name
    assert train(cfg).miou == trained.miou  # nothing is left to do, and the config is the run's
    wanted = SegmentConfig(corpus=cfg.corpus, split="val", checkpoint=trained.checkpoint, output=str(tmp_path / "masks"),
                           code=str(code), max_reject_rate=0, actors=1, cpus_per_actor=1)  # fmt: skip
    done = segment(wanted)
    assert (done.rows, done.rejects) == (6, {})
    rows = pq.read_table(f"{wanted.output}/masks", columns=["confusion"])["confusion"].to_pylist()
    counts = sum(np.reshape(row, (19, 19)) for row in rows)
    assert small_train.figures_of(counts)["miou"] == pytest.approx(trained.miou)
