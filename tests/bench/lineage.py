"""Published architectures on one corpus: same photographs, views and augmentation, random weights; accuracy over cost.

python -m tests.bench.lineage CAMVID [network ...]      trains, segments and prints each; hours on 2 cores
    --precision bf16                                    trains in bfloat16: twice as fast where the processor has it
python -m tests.bench.lineage CAMVID --record           times what is trained side by side; keeps configs/lineage.jsonl
python -m tests.bench.lineage CAMVID --plot FILE.svg    the table of configs/lineage.jsonl and its plot; trains nothing

CAMVID is the folder or zip of the SegNet tutorial's CamVid. Networks that are trained already are not trained again, so
that several processes can share the work. Every step is a command of its own (`maskmill train`, `segment`), with its config in
runs/lineage. No network starts from ImageNet weights here; in the papers, all but U-Net and the hourglass did.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipeline import models
from pipeline.analysis import open_run
from pipeline.config import PredictConfig, SegmentConfig, TrainConfig, parse, parse_model
from pipeline.predict import Predictor

FOLDER = Path("runs/lineage")
RECORDED = Path("configs/lineage.jsonl")
CROP, EPOCHS, BATCH, SCALE = (128, 128), 10, 4, 0.5
HEIGHT, WIDTH, CLASSES = 360, 480, 11

# Network, learning rate, and for FCN's stages the network that it goes on from (arXiv:1411.4038, section 4.3).
# DeconvNet takes no less than 224x224: it alone sees the photographs at their full size.
VGG = {"name": "fcn", "backbone": "vgg16", "upsampling": "transposed"}
NETWORKS: dict[str, tuple[dict[str, Any], float, str | None]] = {
    "LRASPP": ({"name": "lraspp"}, 0.003, None),
    "DeepLabv3+ Lite0": (
        {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 128, "decoder_channels": 128}, 0.003, None
    ),
    "DeepLabv3+ Lite0, 3 skips": (
        {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 128, "decoder_channels": 128,
         "output_stride": 32, "skip_strides": [16, 8, 4]}, 0.003, None
    ),
    "hourglass": ({"name": "hourglass", "stacks": 2}, 0.001, None),
    "DeepLabv3 R50": ({"name": "deeplabv3", "backbone": "resnet50", "output_stride": 16}, 0.001, None),
    "DeepLab v1": ({"name": "deeplabv1"}, 0.0003, None),
    "U-Net": ({"name": "unet", "batch_norm": True}, 0.001, None),
    "DeepLab v2 VGG16": ({"name": "deeplabv2", "backbone": "vgg16"}, 0.0003, None),
    "SegNet": ({"name": "segnet"}, 0.001, None),
    "FCN-32s": (VGG | {"stride": 32}, 0.0003, None),
    "FCN-16s": (VGG | {"stride": 16}, 0.0003, "FCN-32s"),
    "FCN-8s": (VGG | {"stride": 8}, 0.0003, "FCN-16s"),
    "DeconvNet": ({"name": "deconvnet"}, 0.0003, None),
}  # fmt: skip
# Epochs: FCN's three together have as many views as each of the others, DeconvNet's larger views as many pixels.
FEWER = {"FCN-32s": 6, "FCN-16s": 2, "FCN-8s": 2, "DeconvNet": 3}
# Networks to whose scores nothing finer than stride 8 to 32 is added.
COARSE = ("FCN-32s", "DeepLab v1", "DeepLab v2 VGG16", "DeepLabv3 R50")
# Of labels in the plot that others would cover, points from their dots.
PLACES = {
    "FCN-32s": (8, -13),
    "FCN-16s": (18, -1),
    "FCN-8s": (8, 11),
    "DeepLabv3+ Lite0": (7, -10),
    "DeconvNet": (-7, 4),
}


def folder_of(network: str) -> Path:
    return FOLDER / network.lower().replace(" ", "-").replace(",", "").replace("+", "plus")


def scale_of(network: str) -> float:
    """Of the photographs, as the network sees them."""
    return 1.0 if network == "DeconvNet" else SCALE


def train_config(network: str, corpus: str, precision: str = "fp32") -> TrainConfig:
    model, lr, before = NETWORKS[network]
    values = {
        "corpus": {"images": corpus, "layout": "camvid"},
        "label_space": "camvid11",
        "model": model, "weights": "random", "output": str(folder_of(network) / "model"),
        "epochs": FEWER.get(network, EPOCHS), "batch_size": BATCH,
        "augment": {"crop": (224, 224) if network == "DeconvNet" else CROP, "colour": 0.3,
                    "scale": [0.7 * scale_of(network), 1.4 * scale_of(network)]},
        "optimizer": {"name": "adamw", "lr": lr, "backbone_lr_factor": 1, "warmup_steps": 50, "clip_norm": 10},
        "loss": {"terms": [{"name": "cross_entropy", "class_weights": "sqrt_inverse"}]},
        "validate_every": 100, "workers": 1, "cpus_per_worker": 1, "precision": precision,
    }  # fmt: skip
    if before:
        values["start_from"] = str(folder_of(before) / "model" / "best")
    return parse(TrainConfig, values, where=network)


def segment_config(network: str, corpus: str) -> SegmentConfig:
    values = {
        "corpus": {"images": corpus, "layout": "camvid"}, "split": "val",
        "checkpoint": str(folder_of(network) / "model" / "best"), "output": str(folder_of(network) / "run"),
        "predict": {"scales": [scale_of(network)]},
        "metrics": {"boundary_px": [3]}, "actors": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, values, where=network)


def run(command: str, cfg: TrainConfig | SegmentConfig, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))
    subprocess.run([sys.executable, "-m", f"jobs.{command}", str(path)], check=True, stdout=subprocess.DEVNULL)


def trained_row(network: str, corpus: str, precision: str) -> dict[str, Any]:
    """The row of one network; trained and segmented where it is not yet."""
    folder = folder_of(network)
    kept = folder / "row.json"
    if kept.exists():
        return json.loads(kept.read_text())
    cfg = train_config(network, corpus, precision)
    run("train", cfg, folder / "train.yaml")
    run("segment", segment_config(network, corpus), folder / "segment.yaml")
    view = open_run(str(folder / "run"))
    summary, intervals = view.summary(), view.intervals()
    model = new_model(network)
    row = {
        "network": network, "parameters": sum(p.numel() for p in model.parameters()), "precision": precision,
        "views": cfg.epochs * (367 // BATCH) * BATCH, "seconds": seconds_an_image(model, scale_of(network)),
        "miou": summary["miou"], "pixel_accuracy": summary["pixel_accuracy"],
        "low": float(intervals.loc["miou", "low"]), "high": float(intervals.loc["miou", "high"]),
        "class_iou": view.iou().iloc[0][list(view.space.classes)].to_dict(),
    }  # fmt: skip
    kept.write_text(json.dumps(row))
    return row


def new_model(network: str) -> models.Network:
    return models.build(parse_model(NETWORKS[network][0], where=network), CLASSES)


def record() -> None:
    """Keep the rows in configs/, in the order of NETWORKS, each with its time measured now: one machine, one process."""
    rows = recorded_rows()
    for network in NETWORKS:
        kept = folder_of(network) / "row.json"
        if kept.exists():
            rows[network] = json.loads(kept.read_text())
    for network, row in rows.items():
        row["seconds"] = round(seconds_an_image(new_model(network), scale_of(network)), 4)
    lines = [json.dumps(_rounded(rows[network])) for network in NETWORKS if network in rows]
    RECORDED.write_text("\n".join(lines) + "\n")


def recorded_rows() -> dict[str, dict[str, Any]]:
    lines = RECORDED.read_text().splitlines() if RECORDED.exists() else []
    return {row["network"]: row for row in map(json.loads, lines)}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def seconds_an_image(model: models.Network, scale: float) -> float:
    """Processor seconds of one prediction at CamVid's size on one thread: the median of five."""
    torch.set_num_threads(1)
    predictor = Predictor(model.eval(), PredictConfig(scales=[scale]))
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    taken = []
    for _ in range(6):
        started = time.process_time()
        predictor.masks([image])
        taken.append(time.process_time() - started)
    return float(np.median(taken[1:]))


def print_row(row: dict[str, Any]) -> None:
    print(
        f"| {row['network']} | {row['parameters'] / 1e6:.2f} | {row['views']} | {row['seconds']:.2f} | "
        f"{100 * row['miou']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f}) | {100 * row['pixel_accuracy']:.1f} |",
        flush=True,
    )


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """mIoU over seconds an image, with intervals; in colour whether coarse scores are only enlarged, or refined by skips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, coarse in (
        ("skips or a decoder", "tab:blue", False),
        ("coarse scores, enlarged", "tab:orange", True),
    ):
        chosen = [row for row in rows if (row["network"] in COARSE) == coarse]
        x, y = [row["seconds"] for row in chosen], np.array([100 * row["miou"] for row in chosen])
        spread = [y - [100 * row["low"] for row in chosen], [100 * row["high"] for row in chosen] - y]
        axes.errorbar(x, y, yerr=spread, fmt="o", color=colour, markersize=7, elinewidth=1, label=name)
    for row in rows:
        name = row["network"]
        label, place = f"{name} ({row['parameters'] / 1e6:.3g} M)", PLACES.get(name, (7, 4))
        axes.annotate(
            label, (row["seconds"], 100 * row["miou"]), xytext=place, textcoords="offset points", fontsize=8,
            ha="right" if place[0] < 0 else "left",
        )  # fmt: skip
    axes.set(xscale="log", xlabel="processor seconds per image of 360x480, one thread", ylabel="mIoU on CamVid val, %")
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.93")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--plot")
    args = parser.parse_args()
    if args.record:
        record()
    print("| network | M parameters | views | s/image | mIoU (95 %) | pixel accuracy |\n" + "| --- " * 6 + "|")
    if args.record or args.plot:
        rows = recorded_rows().values()
        for row in rows:
            print_row(row)
        if args.plot:
            plot(list(rows), args.plot)
        return
    for network in args.networks or NETWORKS:
        print_row(trained_row(network, args.corpus, args.precision))


if __name__ == "__main__":
    main()
