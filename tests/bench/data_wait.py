"""The share of a training step that waits for data: 1024x2048 PNGs in a zip, crops of 512x1024, through `maskmill train`.

python -m tests.bench.data_wait [network ...]    minutes on 2 cores; what is measured is read from each run's metrics.jsonl

A step is long on a CPU, so the loader alone is measured too: its views per second with 1 and 2 reading threads show how fast a
step may become before it waits.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline.config import TrainConfig, parse
from pipeline.corpus import list_items
from pipeline.synthetic.scenes import write_corpus
from pipeline.train import label_check
from pipeline.train.data import epoch_batches
from pipeline.train.metrics_log import read_records
from tests.bench.turns import show

SCENES, HEIGHT, WIDTH, SEED = {"train": 12, "val": 1}, 1024, 2048, 3
BATCH = 2

# network, epochs of six steps, precision (depthwise convolutions are slow in bf16)
NETWORKS = {
    "fcn-resnet50": ({"name": "fcn_resnet", "backbone": "resnet50"}, 1, "bf16"),
    "lraspp-mobilenetv3": ({"name": "lraspp"}, 4, "fp32"),
}


def config(network: str, output: Path, images: str, truths: str) -> TrainConfig:
    model, epochs, precision = NETWORKS[network]
    values = {
        "corpus": {"images": images, "labels": truths, "layout": "cityscapes"},
        "train_split": "train", "val_split": "val", "label_space": "cityscapes19",
        "model": model, "weights": "random", "output": str(output / network), "epochs": epochs, "batch_size": BATCH,
        "augment": {"crop": [HEIGHT // 2, WIDTH // 2], "scale": [0.5, 2], "flip": True, "colour": 0.5},
        "optimizer": {"name": "sgd", "lr": 0.001, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0,
                      "poly_power": 0.9},
        "validate_every": epochs, "precision": precision, "seed": SEED, "workers": 1, "cpus_per_worker": 1,
        "read_threads": 1,
    }  # fmt: skip
    return parse(TrainConfig, values, where=network)


def waits(network: str, cfg: TrainConfig) -> list[object]:
    """Train, and read what the run wrote: seconds a step, and the share of them that waited."""
    path = Path(f"{cfg.output}.yaml")
    path.write_text(yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))
    subprocess.run([sys.executable, "-m", "jobs.train", str(path)], check=True, stdout=subprocess.DEVNULL)
    steps = [record for record in read_records(f"{cfg.output}/metrics.jsonl") if record["kind"] == "step"]
    shares = [share for record in steps for share in record["data_waits"]]
    seconds = sum(len(record["losses"]) / record["step_rate"] for record in steps) / len(shares)
    each = len(shares) // cfg.epochs
    later = [share for place, share in enumerate(shares) if place % each]
    return [network, len(shares), f"{seconds:.2f}", f"{100 * np.mean(shares):.2f}", f"{100 * np.mean(later):.2f}"]


def views(cfg: TrainConfig, threads: int) -> list[object]:
    """The loader alone: wall and processor time of a view."""
    items, space = label_check.labelled(cfg, "train"), cfg.label_space.space
    wall, cpu, count = time.monotonic(), time.process_time(), 0
    for epoch in range(2):
        for images, _ in epoch_batches(items, space, cfg.augment, batch_size=BATCH, epoch=epoch, seed=SEED, rank=0,
                                       world_size=1, max_pixels=cfg.max_pixels, num_threads=threads):  # fmt: skip
            count += len(images)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return [threads, f"{count / wall:.1f}", f"{1000 * cpu / count:.1f}"]


def main(networks: list[str], output: Path) -> None:
    torch.set_num_threads(1)
    images, truths = write_corpus(str(output / "corpus"), SCENES, HEIGHT, WIDTH, SEED)
    cfg = config("fcn-resnet50", output, images, truths)
    size = sum(item.image.bytes for item in list_items(cfg.corpus, None)) / sum(SCENES.values())
    show(
        f"the loader alone: {SCENES['train']} scenes, {size / 1e6:.1f} MB a PNG, {BATCH} views a step",
        ["reading threads", "views/s", "cpu ms a view"],
        [views(cfg, threads) for threads in (1, 2, 1, 2)],
    )
    show(
        "training: the share of time that waits for data",
        ["network", "steps", "s a step", "data wait %", "without first steps %"],
        [waits(network, config(network, output, images, truths)) for network in networks or NETWORKS],
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as output:
        main(sys.argv[1:], Path(output))
