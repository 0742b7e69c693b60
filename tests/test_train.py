"""Training on a real Ray Train with two CPU workers, small enough for a minute."""

import json
from importlib.metadata import version

import pytest
import torch

from pipeline import storage
from pipeline.config import FIGURES, AugmentConfig, stage_configs
from pipeline.corpus import list_items
from pipeline.errors import RunBusy, UserError
from pipeline.labels import space
from pipeline.models import Network, checkpoint
from pipeline.predict import Predictor
from pipeline.runs import Lease
from pipeline.train import driver
from pipeline.train.data import epoch_batches, steps_per_epoch
from pipeline.train.driver import train
from tests.small_train import NETWORK, QUICK, config, counts_of_segment, curve, figures_of, train_alone

CRF = {"iterations": 3, "smooth_weight": 3, "smooth_px": 3, "colour_weight": 4, "colour_px": 20, "colour_levels": 5}


@pytest.mark.slow
def test_two_workers_train_a_checkpoint_and_the_run_continues_where_it_stopped(ray_session, scenes, tmp_path):
    cfg = config(scenes, tmp_path / "run", validate_crf=CRF, **QUICK)
    records = []
    trained = train(cfg, records.append)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert records == lines
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["epoch"] for line in validations] == [1, 2]
    assert trained.miou == max(line["miou"] for line in validations)
    assert lines[-1]["kind"] == "validation"
    assert [line for line in lines if line["kind"] == "step"][-1]["step"] == 4

    ready = checkpoint.load(trained.checkpoint)
    assert ready.label_space.name == "cityscapes19"
    assert checkpoint.load(str(tmp_path / "run/last")).info["epoch"] == 2

    counts, raw = counts_of_segment(cfg, "last")
    assert figures_of(counts) == {name: validations[-1][name] for name in FIGURES}
    assert (counts != raw).any()  # the CRF did something

    again = train(cfg)  # nothing is left to do: the same answer, no further record
    assert again.miou == trained.miou
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == len(lines)

    with pytest.raises(ValueError, match=r"another config: epochs: 2, now 3; choose another output"):
        train(cfg.model_copy(update={"epochs": 3}))


PLAIN_SGD = {
    "name": "sgd",
    "lr": 0.01,
    "backbone_lr_factor": 1,
    "weight_decay": 0.001,
    "warmup_steps": 0,
    "poly_power": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_workers_reach_the_weights_of_one(ray_session, scenes, tmp_path, parallel):
    """With norms frozen: batch statistics are each worker's own, and their synchronised form exists on GPUs alone."""
    changes = {"norm": "frozen", "model": NETWORK | {"dropout": 0}, "optimizer": PLAIN_SGD | {"clip_norm": 5}}
    changes |= {"epochs": 1, "batch_size": 2, "accumulate": 1}
    one = train_alone(config(scenes, tmp_path / "one", workers=1, **changes))
    train(config(scenes, tmp_path / "two", workers=2, save_every=3, parallel=parallel, **changes))
    assert curve(tmp_path / "two") == pytest.approx(one, rel=1e-4)
    single, double = (checkpoint.load(str(tmp_path / name / "last")).model.state_dict() for name in ("one", "two"))
    assert all(torch.allclose(single[name], double[name], atol=1e-5) for name in single)


@pytest.mark.slow
@pytest.mark.long
def test_stages_follow_each_other_and_the_last_one_is_the_run(ray_session, scenes, tmp_path):
    stages = [
        {"epochs": 1, "freeze_backbone": True, "augment": {"crop": [32, 32]}},
        {"epochs": 1, "model": NETWORK | {"decoder_channels": 24}, "optimizer": {"lr": 0.0001},
         "loss": {"terms": [{"name": "cross_entropy", "class_weights": "median_frequency"}]}},
    ]  # fmt: skip
    cfg = config(scenes, tmp_path, workers=1, stages=stages)
    records = []
    trained = train(cfg, records.append)
    assert [record["stage"] for record in records if record["kind"] == "validation"] == ["1/2", "2/2"]
    first, second, best = (checkpoint.load(str(tmp_path / name)) for name in ("stage-1/best", "stage-2/best", "best"))
    assert trained.checkpoint == str(tmp_path / "best")
    assert best.sha256 == second.sha256
    assert (first.model_config.decoder_channels, best.model_config.decoder_channels) == (16, 24)
    assert json.loads((tmp_path / "stage-2/config.json").read_text())["augment"]["crop"] == [64, 96]
    start = json.loads((tmp_path / "environment.json").read_text())[0]
    assert start["packages"]["torch"] == version("torch")
    assert (tmp_path / "stage-2/curves.png").exists()

    again = train(cfg)  # both stages are done: no worker starts
    assert (again.miou, again.seconds < trained.seconds) == (trained.miou, True)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_training_with_the_step_and_what_to_do(ray_session, scenes, tmp_path):
    optimizer = config(scenes, tmp_path).optimizer.model_copy(update={"lr": 1e30, "name": "sgd"})
    cfg = config(scenes, tmp_path / "run", workers=1, max_failures=0, epochs=3)
    with pytest.raises(ValueError, match=r"the loss is \S+ at step \d+ .*lower optimizer\.lr"):
        train(cfg.model_copy(update={"optimizer": optimizer}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"val_split": "test"}, "there is no split 'test'; choose one of train, val"),
        (
            {"workers": 4, "cpus_per_worker": 8},
            r"the training workers need 32 CPUs \(4 x 8\) and the cluster has 4; .* "
            r"\(workers, cpus_per_worker, gpus_per_worker\)",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_workers_start(ray_session, scenes, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(config(scenes, tmp_path / "run", **changes))


AUGMENT = AugmentConfig(crop=(32, 32), scale=(0.9, 1.1), flip=True, colour=0.1)


def batches(items, rank, world_size, epoch=0):
    return list(
        epoch_batches(items, space("cityscapes19"), AUGMENT, batch_size=4, epoch=epoch, seed=1, rank=rank,
                      world_size=world_size, max_pixels=10**6)
    )  # fmt: skip


def test_the_global_batch_does_not_depend_on_the_number_of_workers(scenes):
    items = list_items(config(scenes, "/x").corpus, "train")
    whole = batches(items, 0, 1)
    halves = [batches(items, rank, 2) for rank in range(2)]
    assert len(whole) == steps_per_epoch(len(items), 4) == 2
    for step, (images, labels) in enumerate(whole):
        assert (torch.cat([halves[0][step][0], halves[1][step][0]]) == images).all()
        assert (torch.cat([halves[0][step][1], halves[1][step][1]]) == labels).all()
    assert not (batches(items, 0, 1, epoch=1)[0][0] == whole[0][0]).all()


def test_a_corpus_smaller_than_a_batch_still_gives_one(scenes):
    items = list_items(config(scenes, "/x").corpus, "train")[:3]
    ((images, _),) = batches(items, 0, 1)
    assert len(images) == 4


class Slope(Network):
    """Logits that depend on the column alone: a stand-in with known scores."""

    min_size, multiple_of = 16, 8

    def forward(self, x):
        self.check_size(x)
        columns = torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])
        return [torch.cat([columns, -columns], dim=1) + 0 * x[:, :1]]


def test_prediction_pads_to_a_legal_size_and_cuts_back():
    from numpy import uint8, zeros

    from pipeline.config import PredictConfig

    predictor = Predictor(Slope(), PredictConfig())
    probs = predictor.probs([zeros((13, 21, 3), uint8)] * 2)
    assert probs.shape == (2, 2, 13, 21)
    assert probs.sum(1) == pytest.approx(torch.ones(2, 13, 21), abs=1e-6)
    expected = torch.linspace(-1, 1, 24)[:21].mul(2).sigmoid()  # padded to 24 columns
    assert torch.allclose(probs[0, 0, 5], expected, atol=1e-6)


def test_a_mirror_image_is_predicted_and_turned_back():
    from numpy import uint8, zeros

    from pipeline.config import PredictConfig

    predictor = Predictor(Slope(), PredictConfig(flip=True))
    # The slope ignores the image, so prediction and turned-back prediction cancel: one half everywhere.
    probs = predictor.probs([zeros((16, 16, 3), uint8)])
    assert torch.allclose(probs, torch.full((1, 2, 16, 16), 0.5), atol=0.06)
    assert torch.allclose(probs[0, 0], 1 - probs[0, 0].flip(-1), atol=1e-6)


def test_images_of_other_sizes_are_not_one_batch():
    from numpy import uint8, zeros

    from pipeline.config import PredictConfig

    with pytest.raises(ValueError, match="images of one size"):
        Predictor(Slope(), PredictConfig()).probs([zeros((16, 16, 3), uint8), zeros((8, 8, 3), uint8)])


def test_a_checkpoint_gives_the_logits_back(tiny_checkpoint, tmp_path):
    ready = checkpoint.load(tiny_checkpoint)
    checkpoint.save(str(tmp_path), ready.model, ready.model_config, ready.label_space, {})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (checkpoint.load(str(tmp_path)).model(x)[-1] == ready.model(x)[-1]).all()
    assert checkpoint.load(str(tmp_path)).sha256 == ready.sha256


def _rewrite(uri, **values):
    description = json.loads(storage.read(storage.join(uri, "checkpoint.json"))) | values
    storage.put(storage.join(uri, "checkpoint.json"), json.dumps(description).encode())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda uri: storage.delete(f"{uri}/checkpoint.json"), r"no checkpoint\.json there"),
        (lambda uri: storage.put(f"{uri}/checkpoint.json", b"{"), r"checkpoint\.json is not readable"),
        (lambda uri: storage.delete(f"{uri}/model.safetensors"), r"model\.safetensors is missing"),
        (lambda uri: storage.put(f"{uri}/model.safetensors", b"garbage"), "damaged or from another checkpoint"),
        (lambda uri: _rewrite(uri, format=99), "format 99, this version reads 1"),
        (lambda uri: _rewrite(uri, label_space="camvid11"), "weights are of another network: 2 differences"),
    ],
)  # fmt: skip
def test_unreadable_weights_are_explained(tiny_checkpoint, tmp_path, spoil, sentence):
    ready = checkpoint.load(tiny_checkpoint)
    checkpoint.save(str(tmp_path), ready.model, ready.model_config, ready.label_space, {})
    spoil(str(tmp_path))
    with pytest.raises(ValueError, match=sentence):
        checkpoint.load(str(tmp_path))


def test_a_file_that_is_no_safetensors_is_explained(tiny_checkpoint):
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        checkpoint.load_weights(checkpoint.load(tiny_checkpoint).model, b"garbage" * 9, where="checkpoint x")


def test_a_second_training_of_one_output_is_refused(scenes, tmp_path):
    cfg = config(scenes, tmp_path / "run")
    with Lease(cfg.output), pytest.raises(RunBusy, match="is writing it"):
        train(cfg)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"start_from": "{missing}"}, "no checkpoint.json there"),
        ({"start_from": None, "weights": "{missing}.pth"}, "no such file"),
        ({"model": {"name": "unet", "channels": 4}}, "UNet cannot start from these weights: no tensor of its backbone"),
    ],
)
def test_a_later_stage_that_cannot_start_is_refused_before_the_first(scenes, tmp_path, stage, sentence):
    stage = {
        key: value.replace("{missing}", str(tmp_path / "no")) if isinstance(value, str) else value
        for key, value in stage.items()
    }
    cfg = config(scenes, tmp_path / "run", stages=[{"epochs": 1}, stage])
    with pytest.raises(UserError, match=sentence):
        driver._check(cfg, stage_configs(cfg))
