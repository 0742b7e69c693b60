"""The training loop of one worker, run in this process: resuming, recipes, parts of the loop, faults."""

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.exceptions import OutOfMemoryError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from pipeline import storage
from pipeline.config import FIGURES
from pipeline.corpus import list_items, read
from pipeline.errors import UserError
from pipeline.imaging.augment import augment, drop_cells
from pipeline.imaging.decode import decode_label
from pipeline.labels import IGNORE, space
from pipeline.models import Network, checkpoint
from pipeline.models.cpp_compiler import has_cpp_compiler
from pipeline.train import curves, failures, label_check, run_folder
from pipeline.train.data import EpochOrder, epoch_batches
from pipeline.train.metrics_log import MetricsLog, figure, following, read_records
from pipeline.train.validate import require_truth
from tests.small_train import NETWORK, QUICK, config, counts_of_segment, curve, figures_of, train_alone


def alone(scenes, output, **changes):
    return config(scenes, output, **({"workers": 1} | changes))


def test_a_run_does_not_go_on_with_other_images(scenes, tmp_path, monkeypatch):
    cfg = alone(scenes, tmp_path / "run")
    run_folder.bind_images(cfg)
    run_folder.bind_images(cfg)
    every = run_folder.labelled
    monkeypatch.setattr(run_folder, "labelled", lambda cfg, split: every(cfg, split)[:-1])
    with pytest.raises(UserError, match=r"labelled images, and had .* when this training began"):
        run_folder.bind_images(cfg)


GOLDEN = {
    "unet": QUICK,
    "unet-losses": QUICK | {
        "loss": {"terms": [{"name": "ohem", "threshold": 0.7, "min_kept": 100, "class_weights": "median_frequency"},
                           {"name": "lovasz", "weight": 0.5}], "sample": 0.5, "sample_px": 4},
        "augment": {"crop": [32, 64], "scale": [0.5, 2], "flip": True, "colour": 0.5, "class_uniform": 0.5},
        "optimizer": {"name": "sgd", "lr": 0.02, "backbone_lr_factor": 0.5, "bias_lr_factor": 2, "weight_decay": 0.001,
                      "warmup_steps": 1, "schedule": "cosine", "final_factor": 0.1, "clip_norm": 1},
        "accumulate": 2,
    },
}  # fmt: skip


class Killed(BaseException):
    """Stands where the process would be gone: nothing catches it."""


def stop_after_step(monkeypatch, number):
    """The process ends in the middle of the given step."""
    from pipeline.train import learner

    original = learner.Learner.step

    def step(self, images, label, step, steps, data_wait_s):
        if step == number:
            raise Killed
        return original(self, images, label, step, steps, data_wait_s)

    monkeypatch.setattr(learner.Learner, "step", step)


def weights_of(output, name="last"):
    return json.loads(storage.read(f"{output}/{name}/checkpoint.json"))["weights_sha256"]


def test_a_run_broken_off_within_an_epoch_goes_on_to_the_same_curve_and_weights(scenes, tmp_path, monkeypatch):
    changes = {"batch_size": 2, "save_every": 3, "ema": 0.9, "model": NETWORK | {"dropout": 0.5}}
    whole = train_alone(alone(scenes, tmp_path / "whole", **changes))
    cfg = alone(scenes, tmp_path / "broken", **changes)
    for number in (2, 6, 7):  # before the first snapshot, and twice in the second epoch
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_after_step(patch, number)
            train_alone(cfg)
    newest = tmp_path / "broken/snapshots/step-000000006/optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-1])  # damaged: the one of step 4 is used
    assert train_alone(cfg) == whole
    assert len(whole) == 8
    starts = [r["step"] for r in read_records(f"{cfg.output}/metrics.jsonl") if r["kind"] == "start"]
    assert starts == [0, 0, 4]
    assert weights_of(cfg.output) == weights_of(tmp_path / "whole")
    assert weights_of(cfg.output, "best") == weights_of(tmp_path / "whole", "best")


def test_a_snapshot_of_other_parameter_groups_is_not_continued(scenes, tmp_path, monkeypatch):
    """Batch norms' shifts were once in the group of the biases."""
    from pipeline.train.recipe import optimizer

    cfg = alone(scenes, tmp_path / "run", batch_size=2, save_every=1, **QUICK)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optimizer, "_NORMS", ())
        stop_after_step(patch, 2)
        train_alone(cfg)
    with pytest.raises(UserError, match="groups the parameters for the optimiser as an earlier version did"):
        train_alone(cfg)


def test_a_run_lives_in_object_storage(s3, scenes, monkeypatch):
    cfg = alone(scenes, f"{s3}/trained", epochs=1, batch_size=2, save_every=2, tensorboard=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after_step(patch, 3)
        train_alone(cfg)
    assert len(curve(cfg.output)) == 2
    assert len(train_alone(cfg)) == 4
    assert checkpoint.load(f"{cfg.output}/best").info["epoch"] == 1
    assert curves.draw(f"{cfg.output}/metrics.jsonl", f"{cfg.output}/curves.png")
    assert any(file.path.startswith("events.") for file in storage.list_files(f"{cfg.output}/tensorboard"))


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(scenes, tmp_path):
    changes = {"norm": "frozen", "epochs": 1, "model": NETWORK | {"dropout": 0}}
    changes |= {"optimizer": {"name": "sgd", "lr": 0.01, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0,
                              "poly_power": 1, "clip_norm": 1.0}}  # fmt: skip
    whole = train_alone(alone(scenes, tmp_path / "whole", **changes))
    parts = train_alone(alone(scenes, tmp_path / "parts", accumulate=4, **changes))
    assert parts == pytest.approx(whole, rel=1e-4)
    one, other = (checkpoint.load(str(tmp_path / name / "last")).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_every_recipe_learns(ray_session, scenes, tmp_path):
    loss = {
        "terms": [
            {"name": "ohem", "threshold": 0.7, "min_kept": 100, "class_weights": "median_frequency"},
            {"name": "focal", "gamma": 2, "class_weights": "sqrt_inverse"},
            {"name": "dice"},
            {"name": "lovasz", "weight": 0.5},
        ],
        "sample": 0.5,
        "sample_px": 4,
    }
    augment = {"crop": [32, 32], "scale": [1, 1], "flip": True, "colour": 0, "class_uniform": 0.5}
    cfg = alone(scenes, tmp_path, loss=loss, augment=augment, epochs=4, best_by="iou.road", validate_every=4)
    losses = train_alone(cfg)
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert storage.exists(f"{cfg.output}/best/model.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not has_cpp_compiler(), reason="no C++ compiler on this machine")
def test_a_compiled_network_learns_the_same(scenes, tmp_path):
    small = QUICK | {"model": QUICK["model"] | {"depth": 1}, "epochs": 1}
    eager = train_alone(alone(scenes, tmp_path / "eager", **small))
    cfg = alone(scenes, tmp_path / "compiled", compile=True, **small)
    assert train_alone(cfg) == pytest.approx(eager, rel=1e-3)
    one, other = (checkpoint.load(str(tmp_path / name / "last")).model for name in ("eager", "compiled"))
    assert one.state_dict().keys() == other.state_dict().keys()  # no trace of the wrapper


def test_compile_without_a_compiler_is_told_before_the_first_step(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"compile: true needs a C\+\+ compiler .* has no no-such-compiler; install one"
    ):
        train_alone(alone(scenes, tmp_path, compile=True))


@pytest.mark.slow
def test_the_recipe_still_gives_the_losses_of_the_golden_file(ray_session, scenes, tmp_path):
    """`losses.json` changes with a reason in the commit alone; write it anew from the list that the failure shows."""
    golden = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())
    for name, changes in GOLDEN.items():
        losses = train_alone(alone(scenes, tmp_path / name, epochs=1, batch_size=2, **changes))
        assert losses == pytest.approx(golden[name], rel=1e-3), name  # kernels of other processors round otherwise


def test_bf16_and_a_frozen_backbone_leave_the_backbone_as_it_was(scenes, tmp_path):
    first = alone(scenes, tmp_path / "first", epochs=1)
    train_alone(first)
    start = f"{first.output}/last"
    cfg = alone(scenes, tmp_path / "next", epochs=1, start_from=start, freeze_backbone=True, precision="bf16")
    train_alone(cfg)
    one, other = (checkpoint.load(uri).model for uri in (start, f"{cfg.output}/last"))
    assert all(torch.equal(a, b) for a, b in zip(one.backbone.state_dict().values(), other.backbone.state_dict().values(),
                                                 strict=True))  # fmt: skip
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_not_a_number_is_told_with_step_images_and_the_last_good_state(scenes, tmp_path, monkeypatch):
    cfg = alone(scenes, tmp_path, batch_size=2, save_every=1)
    original = Network.normalise
    calls = iter(range(100))

    def spoiled(network, pixels):
        return original(network, pixels) * (float("nan") if next(calls) == 2 else 1)

    monkeypatch.setattr(Network, "normalise", spoiled)
    items = list_items(cfg.corpus, "train")
    order = EpochOrder(len(items), seed=0, epoch=0)
    ids = [items[order[place][0]].image_id for place in (4, 5)]
    with pytest.raises(
        ValueError, match=rf"the loss is nan at step 3 \(epoch 1\), images {ids[0]}, {ids[1]}; .*of step 2: "
    ):
        train_alone(cfg)
    assert len(curve(tmp_path)) == 2  # what was good is on record


def test_an_infinite_gradient_is_told_before_it_reaches_the_next_step():
    with pytest.raises(
        ValueError, match=r"the gradient's norm is inf at step 8 \(epoch 2\), images a, .* and 2 more; .*G"
    ):
        failures.check_finite(1.0, float("inf"), step=8, epoch=2, image_ids=list("abcdefghij"), good="G")


def test_memory_that_is_full_names_the_knobs(scenes, tmp_path):
    cfg = alone(scenes, tmp_path, batch_size=6, accumulate=2)
    sentence = (
        r"the machine's memory is full, at 3 crops of 64x96 at once .*; raise accumulate to 3 .*, or shrink augment"
    )
    with pytest.raises(ValueError, match=sentence), failures.memory_explained(cfg):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="another"), failures.memory_explained(cfg):
        raise RuntimeError("another fault")
    gpus = alone(scenes, tmp_path, workers=2, gpus_per_worker=1, batch_size=2)
    words = failures.out_of_memory(gpus, "the GPU's memory")
    assert "set precision to bf16, or set parallel to fsdp" in words
    assert "accumulate to" not in words  # one image at a time already


def test_a_full_node_is_explained_whichever_of_its_processes_ray_killed(scenes, tmp_path):
    cfg = alone(scenes, tmp_path)
    full = OutOfMemoryError("4 worker(s) were killed ... Memory on the node (IP: ...) was 22.23GB used / 23.54GB limit")
    told = r"a node's memory \(22\.23GB of 23\.54GB, other programs included\) is full, at 4 crops of 64x96"
    for failure in (ControllerError(full), WorkerGroupError("rank 0", {0: full})):
        assert re.search(told, str(failures.explained(cfg, failure)))
    other = ControllerError(RuntimeError("another fault"))
    assert failures.explained(cfg, other) is other


COUNTS = np.array([[100, 0, 0], [90, 10, 0], [0, 0, 0], [50, 0, 50]])


def test_class_uniform_views_draw_each_class_alike_and_only_images_that_hold_it():
    order = EpochOrder(4, seed=0, epoch=0, class_uniform=1, counts=COUNTS)
    drawn = [order[place] for place in range(600)]
    assert all(COUNTS[index, holding] > 0 for index, holding in drawn)
    shares = np.bincount([holding for _, holding in drawn], minlength=3) / 600
    assert shares == pytest.approx([1 / 3] * 3, abs=4 * np.sqrt(2 / 9 / 600))  # four standard deviations
    assert order[5] == EpochOrder(4, seed=0, epoch=0, class_uniform=1, counts=COUNTS)[5]
    plain = EpochOrder(4, seed=0, epoch=0)
    assert sorted(plain[place][0] for place in range(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("place", [(0, 0), (19, 29), (7, 12)])
def test_a_crop_holds_the_class_it_was_drawn_for(scenes, place):
    cfg = config(scenes, "/x", augment={"crop": [8, 8], "scale": [0.7, 1], "flip": True, "colour": 0}).augment
    label = np.zeros((20, 30), np.uint8)
    label[place] = 7
    label[max(0, place[0] - 1) : place[0] + 2, max(0, place[1] - 1) : place[1] + 2] = 7  # survives the resize
    for seed in range(20):
        _, y = augment(np.zeros((20, 30, 3), np.uint8), label, cfg, np.random.default_rng(seed), holding=7)
        assert (y == 7).any()
    augment(np.zeros((20, 30, 3), np.uint8), label, cfg, np.random.default_rng(0), holding=9)  # not there: anywhere


def test_dropped_cells_are_ignored_and_whole():
    label = torch.zeros(40, 64, dtype=torch.uint8)
    kept = drop_cells(label, 0.5, 8, np.random.default_rng(0)) != IGNORE
    cells = kept.reshape(5, 8, 8, 8).movedim(1, 2).reshape(40, 64)
    assert ((cells.float().mean(1) == 0) | (cells.float().mean(1) == 1)).all()
    assert 0.2 < kept.float().mean() < 0.8
    assert drop_cells(label, 1, 8, np.random.default_rng(0)) is label


def test_batches_that_are_left_are_those_of_the_whole_epoch(scenes):
    cfg = config(scenes, "/x")
    items = list_items(cfg.corpus, "train")

    def batches(first):
        return list(epoch_batches(items, space("cityscapes19"), cfg.augment, batch_size=2, epoch=3, seed=1, rank=0,
                                  world_size=1, max_pixels=10**6, first=first))  # fmt: skip

    whole, rest = batches(0), batches(3)
    assert len(rest) == len(whole) - 3
    assert torch.equal(whole[3][0], rest[0][0])


def test_records_after_the_snapshot_are_dropped_and_each_step_keeps_its_loss(tmp_path):
    log = MetricsLog(str(tmp_path))
    log.start(0, workers=1)
    values = {"steps": 9, "epoch": 1, "lr": 1.0, "gradient_norm": 2.0, "batch_size": 4, "seconds": 0.5}
    for step in (1, 2, 3):
        log.step(step=step, loss=step / 4, data_wait=0.5, **values)
    log.flush()
    log.step(step=4, loss=1.0, data_wait=0.0, **values)
    log.flush()
    (_, first, second) = read_records(f"{tmp_path}/metrics.jsonl")
    assert (first["losses"], first["loss"], first["data_wait"], first["gradient_norm"]) == (
        [0.25, 0.5, 0.75],
        0.5,
        0.5,
        2,
    )
    assert (first["step_rate"], first["images_per_s"]) == (2, 8)
    assert second["step"] == 4
    assert MetricsLog(str(tmp_path), 3).records == [*log.records[:2]]


def test_validation_counts_what_segment_writes(scenes, tmp_path):
    cfg = alone(scenes, tmp_path, epochs=1, best_by="frequency_weighted_iou", **QUICK)
    train_alone(cfg)
    (validation,) = (r for r in read_records(f"{cfg.output}/metrics.jsonl") if r["kind"] == "validation")
    counts, _ = counts_of_segment(cfg, "best")
    assert np.count_nonzero(counts.sum(axis=0)) > 1  # several classes are answered, or equal counts would mean little
    assert figures_of(counts) == {name: validation[name] for name in FIGURES}


def test_best_can_be_told_by_any_figure():
    record = {"miou": 0.5, "iou": {"road": 0.75, "bus": None}}
    assert [figure(record, name) for name in ("miou", "iou.road", "iou.bus")] == [0.5, 0.75, -1]


def test_tensorboard_and_curves_show_the_run(scenes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = alone(scenes, tmp_path, tensorboard=True, epochs=1)
    losses = train_alone(cfg)
    board = EventAccumulator(f"{cfg.output}/tensorboard")
    board.Reload()
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx(losses)
    tags = [tag for tag in board.Tags()["images"] if tag.startswith("mask and truth/val/")]
    assert [(len(board.Images(tag)), board.Images(tag)[0].width) for tag in tags] == [(1, 2 * 128)] * 4
    assert curves.draw(f"{cfg.output}/metrics.jsonl", f"{cfg.output}/curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not curves.draw(f"{cfg.output}/none.jsonl", f"{cfg.output}/none.png")


def test_a_bad_label_is_told_while_labels_are_counted(scenes, tmp_path):
    cfg = alone(
        scenes, tmp_path, augment={"crop": [8, 8], "scale": [1, 1], "flip": False, "colour": 0, "class_uniform": 1}
    )
    items = label_check.labelled(cfg, "train")
    counts, foreign = run_folder.counts_of(items, space("cityscapes19"), 10**6)
    assert counts.shape == (8, 19)
    assert not foreign.pixels
    _, foreign = run_folder.counts_of(items, space("voc21"), 10**6)
    words = foreign.sentence("voc21")
    assert re.search(r"label space voc21 lacks: \d+ on \d+ pixels in 8 files \(\S+, ", words), words
    stored = np.concatenate([decode_label(read(item.label), 10**6).ravel() for item in items])
    values, pixels = np.unique(stored[(stored > 20) & (stored < 255)], return_counts=True)
    assert foreign.pixels == {str(value): count for value, count in zip(values, pixels, strict=True)}


def test_a_store_that_fails_for_a_moment_does_not_end_the_telling(tmp_path, monkeypatch):
    log, told, failures_left = MetricsLog(str(tmp_path)), [], [2]

    def reading(uri):
        if failures_left[0] and threading.current_thread() is not threading.main_thread():
            failures_left[0] -= 1
            raise ConnectionResetError("for a moment")
        return read_records(uri)

    monkeypatch.setattr("pipeline.train.metrics_log.read_records", reading)
    with following(log.uri, told.append):
        log.start(0)
        time.sleep(2.5)
    assert [record["kind"] for record in told] == ["start"]


def test_a_best_score_of_a_class_that_no_validation_label_has_is_refused(scenes, tmp_path):
    cfg = alone(scenes, tmp_path, best_by="iou.train")
    confusion = np.zeros((19, 19), np.int64)
    confusion[0, 0] = confusion[0, cfg.label_space.space.classes.index("train")] = 5
    with pytest.raises(
        UserError, match=r"best_by: iou\.train: no label of val_split 'val' has a pixel of train; choose an"
    ):
        require_truth(cfg, confusion)
    require_truth(cfg.model_copy(update={"best_by": "iou.road"}), confusion)
    with pytest.raises(UserError, match="has a pixel of a class; choose a val_split"):
        require_truth(cfg.model_copy(update={"best_by": "miou"}), 0 * confusion)
