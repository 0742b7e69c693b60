"""Every family trained briefly on one small corpus through `maskmill train`, beside the guess from colour alone.

python -m tests.bench.lineage [family ...]    about an hour on 2 cores; a family already trained is read, not trained again

Not a comparison of the networks: none sees ImageNet weights, and each has a few minutes. It shows that all of them learn.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from pipeline import models
from pipeline.cli.demo import colour_guess
from pipeline.config import TrainConfig, parse
from pipeline.synthetic.scenes import write_corpus

FOLDER = Path("runs/lineage")
SCENES, HEIGHT, WIDTH, SEED = {"train": 160, "val": 32}, 64, 128, 11

# network, crop, epochs, learning rate, precision: bf16 where its convolutions are dense (depthwise ones are slow in it).
# FCN pads each crop by 100 pixels a side and DeconvNet takes no less than 224x224: they see fewer views.
FAMILIES = {
    "lraspp": ({"name": "lraspp"}, (64, 96), 20, 0.003, "fp32"),
    "deeplabv3-mobilenet": (
        {"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16}, (64, 96), 40, 0.003, "fp32"
    ),
    "deeplabv3plus-lite0": (
        {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 128, "decoder_channels": 128},
        (64, 96), 30, 0.003, "fp32"
    ),
    "segnet-basic": ({"name": "segnet", "variant": "basic"}, (64, 96), 10, 0.003, "bf16"),
    "hourglass": ({"name": "hourglass", "stacks": 2, "channels": 128}, (64, 128), 10, 0.001, "bf16"),
    "fcn-resnet50": ({"name": "fcn_resnet", "backbone": "resnet50"}, (64, 96), 10, 0.001, "bf16"),
    "unet": ({"name": "unet"}, (64, 96), 10, 0.0003, "bf16"),
    "segnet": ({"name": "segnet"}, (64, 96), 10, 0.001, "bf16"),
    "deeplabv1": ({"name": "deeplabv1"}, (64, 96), 10, 0.0003, "bf16"),
    "deeplabv2-vgg16": ({"name": "deeplabv2", "backbone": "vgg16", "fc_channels": 256}, (64, 96), 10, 0.0003, "bf16"),
    "fcn-32s-googlenet": ({"name": "fcn", "backbone": "googlenet", "stride": 32}, (64, 96), 10, 0.001, "bf16"),
    "classifier-resnet18": ({"name": "classifier", "backbone": "resnet18"}, (64, 96), 16, 0.001, "bf16"),
    "deconvnet": ({"name": "deconvnet", "fc_channels": 512}, (224, 224), 4, 0.001, "bf16"),
    "fcn-8s-vgg16": ({"name": "fcn", "stride": 8, "fc_channels": 512}, (64, 96), 5, 0.0003, "bf16"),
}  # fmt: skip

SMALL_BATCHES = {"fcn-8s-vgg16", "deconvnet"}  # more steps from the few views they can afford


def config(family: str, images: str, truths: str) -> TrainConfig:
    model, crop, epochs, lr, precision = FAMILIES[family]
    values = {
        "corpus": {"images": images, "labels": truths, "layout": "cityscapes"},
        "train_split": "train", "val_split": "val", "label_space": "cityscapes19",
        "model": model, "weights": "random", "output": str(FOLDER / family), "epochs": epochs,
        "batch_size": 4 if family in SMALL_BATCHES else 8,
        "augment": {"crop": crop, "scale": [0.9, 1.4], "flip": True, "colour": 0.3},
        "optimizer": {"name": "adamw", "lr": lr, "backbone_lr_factor": 1, "weight_decay": 0.01, "warmup_steps": 20,
                      "poly_power": 0.9},
        "validate_every": epochs, "precision": precision, "seed": SEED, "workers": 1, "cpus_per_worker": 2,
    }  # fmt: skip
    return parse(TrainConfig, values, where=family)


def main(families: list[str]) -> None:
    images, truths = write_corpus(str(FOLDER / "corpus"), SCENES, HEIGHT, WIDTH, SEED)
    guess = colour_guess(config("lraspp", images, truths))
    print(f"{'family':24} {'M param':>8} {'views':>6} {'first loss':>10} {'last loss':>10} {'mIoU':>6} {'minutes':>8}")
    print(f"{'colour alone':24} {'':8} {'':6} {'':10} {'':10} {100 * guess:6.1f}")
    for family in families or FAMILIES:
        cfg = config(family, images, truths)
        path = FOLDER / f"{family}.yaml"
        path.write_text(yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))
        started = time.monotonic()
        log = FOLDER / family / "metrics.jsonl"
        if not (FOLDER / family / "best" / "checkpoint.json").exists():
            subprocess.run([sys.executable, "-m", "jobs.train", str(path)], check=True, stdout=subprocess.DEVNULL)
            (FOLDER / family / "minutes.json").write_text(json.dumps((time.monotonic() - started) / 60))
        minutes = json.loads((FOLDER / family / "minutes.json").read_text())
        records = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [record["loss"] for record in records if record["kind"] == "step"]
        miou = [record["miou"] for record in records if record["kind"] == "validation"][-1]
        parameters = sum(p.numel() for p in models.build(cfg.model, 19).parameters()) / 1e6
        views = cfg.epochs * SCENES["train"]
        print(
            f"{family:24} {parameters:8.2f} {views:6} {losses[0]:10.3f} {losses[-1]:10.3f} {100 * miou:6.1f} {minutes:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
