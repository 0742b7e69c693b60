"""A training run small enough for seconds, with Ray or without."""

import torch

from pipeline.config import TrainConfig, parse
from pipeline.records import loss_curve, read_records
from pipeline.train import folder
from pipeline.train.loop import run_worker

NETWORK = {
    "name": "deeplabv3plus", "backbone": "efficientnet_lite0", "output_stride": 32, "aspp_channels": 16,
    "low_level_channels": 8, "decoder_channels": 16,
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
    if folder.needs_counts(cfg) and not folder.storage.exists(f"{cfg.output}/label_counts.json"):
        folder.count_labels(cfg)
    run_worker(cfg, rank=0, world_size=1, device=torch.device("cpu"), **arguments)
    return curve(cfg.output)


def curve(output) -> list[float]:
    return loss_curve(read_records(f"{output}/metrics.jsonl"))
