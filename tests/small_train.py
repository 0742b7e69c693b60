"""A training run small enough for seconds, with Ray or without."""

import numpy as np
import torch

from pipeline.config import SegmentConfig, TrainConfig, parse
from pipeline.corpus import list_items
from pipeline.metrics.iou import summary_scores
from pipeline.models import checkpoint
from pipeline.segment.shard import ShardSegmenter
from pipeline.train import run_folder
from pipeline.train.loop import run_worker
from pipeline.train.metrics_log import loss_curve, read_records

NETWORK = {
    "name": "deeplabv3plus", "backbone": "efficientnet_lite0", "output_stride": 32, "aspp_channels": 16,
    "low_level_channels": 8, "decoder_channels": 16,
}  # fmt: skip
# After a few steps it answers with several classes and its batch statistics matter, where the one above answers with one.
QUICK = {
    "model": {"name": "unet", "channels": 8, "depth": 2, "batch_norm": True},
    "optimizer": {"name": "adamw", "lr": 0.01, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0, "poly_power": 1},
}  # fmt: skip


def config(scenes, output, **changes) -> TrainConfig:
    values = {
        "corpus": {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"},
        "train_split": "train",
        "val_split": "val",
        "label_space": "cityscapes19",
        "model": NETWORK,
        "weights": "random",
        "output": str(output),
        "epochs": 2,
        "batch_size": 4,
        "augment": {"crop": [64, 96], "scale": [0.8, 1.2], "flip": True, "colour": 0.2},
        "optimizer": {"name": "adamw", "lr": 0.003, "backbone_lr_factor": 1, "weight_decay": 0.01, "warmup_steps": 0,
                      "poly_power": 0.9},
        "validate_every": 1,
        "precision": "fp32",
        "seed": 0,
        "workers": 2,
        "cpus_per_worker": 1,
    }  # fmt: skip
    return parse(TrainConfig, values | changes, where="test")


def train_alone(cfg: TrainConfig, **arguments) -> list[float]:
    """Train as one worker in this process, without Ray; the loss of each step."""
    if run_folder.needs_counts(cfg) and not run_folder.storage.exists(f"{cfg.output}/label_counts.json"):
        run_folder.count_labels(cfg)
    run_worker(cfg, rank=0, world_size=1, device=torch.device("cpu"), **arguments)
    return curve(cfg.output)


def curve(output) -> list[float]:
    return loss_curve(read_records(f"{output}/metrics.jsonl"))


def counts_of_segment(cfg: TrainConfig, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(C, C) counts that `segment` writes for a run's validation split: of its answer, and before the CRF (or zeros)."""
    wanted = SegmentConfig(corpus=cfg.corpus, split=cfg.val_split, checkpoint=f"{cfg.output}/{name}", output="/unused",
                           crf=cfg.validate_crf, max_reject_rate=0, actors=1, cpus_per_actor=1)  # fmt: skip
    ready = checkpoint.load(wanted.checkpoint)
    masks, rejects = ShardSegmenter(ready, wanted).answer(list_items(cfg.corpus, cfg.val_split))
    assert not len(rejects)
    size = ready.label_space.num_classes
    answer, raw = (
        sum((np.reshape(row, (size, size)) for row in masks[column].to_pylist() if row), np.zeros((size, size), int))
        for column in ("confusion", "confusion_raw")
    )
    return answer, raw


def figures_of(counts: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in summary_scores(counts).items()}
