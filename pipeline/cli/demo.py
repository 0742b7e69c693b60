"""The whole product on a small corpus, in about three minutes: scenes, training, segmentation with the CRF, answers."""

import numpy as np

from pipeline import storage
from pipeline.analysis import open_run, write_report
from pipeline.cli.console import console, training
from pipeline.cli.run_tables import iou_table
from pipeline.cli.steps import keep, segment_and_verify, step
from pipeline.config import SegmentConfig, TrainConfig, parse
from pipeline.corpus import Item, list_items
from pipeline.corpus.samples import load_pair
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import mean_iou
from pipeline.synthetic.scenes import write_corpus
from pipeline.train.driver import train

SCENES = {"train": 240, "val": 48}
HEIGHT, WIDTH = 160, 320
SEED = 7
COLOUR_BITS = 4  # bits per channel, in the colour-only guess
MAX_PIXELS = 1_000_000


def demo(folder: str) -> None:
    """Make the corpus, train, segment, verify, and print the answers; everything stays below `folder`."""
    folder = storage.absolute(folder)
    corpus = storage.join(folder, "corpus")
    step(1, 4, f"{sum(SCENES.values())} street scenes of {HEIGHT}x{WIDTH} -> {corpus}")
    images, truths = write_corpus(corpus, SCENES, HEIGHT, WIDTH, SEED)

    train_cfg = _train_config(images, truths, storage.join(folder, "model"))
    step(2, 4, f"training with Ray Train: maskmill train {keep(folder, 'train.yaml', train_cfg)}")
    with training("training") as on_record:
        trained = train(train_cfg, on_record)

    segment_cfg = _segment_config(images, truths, trained.checkpoint, storage.join(folder, "run"))
    path = keep(folder, "segment.yaml", segment_cfg)
    step(3, 4, f"segmenting with Ray Data, dense CRF on: maskmill segment {path}")
    segment_and_verify(segment_cfg)

    step(4, 4, "computing the results with Dask\n")
    view = open_run(segment_cfg.output)
    console.print(iou_table(view))
    report = write_report(segment_cfg.output)
    guess, summary = colour_guess(train_cfg), view.summary()
    console.print(f"\nReport: {report}")
    console.print(f"Masks:  {segment_cfg.output}/masks/part-*.parquet (any Parquet reader)")
    console.print(
        f"\nmIoU by colour alone {100 * guess:.1f} · network {100 * summary['miou_raw']:.1f} · "
        f"network with CRF {100 * summary['miou']:.1f}",
        style="bold",
    )


def colour_guess(cfg: TrainConfig) -> float:
    """Return mIoU on the validation split of the best guess from a pixel's colour alone, which a network must clearly beat.

    Each of 16x16x16 colours is given the class that it has most often in the training split.
    """
    space = cfg.label_space.space
    votes = np.zeros((1 << 3 * COLOUR_BITS, 256), np.int64)
    for item in list_items(cfg.corpus, cfg.train_split):
        bins, label = _bins(item, cfg)
        np.add.at(votes, (bins.ravel(), label.ravel()), 1)
    best = votes[:, : space.num_classes].argmax(axis=1).astype(np.uint8)
    confusion = np.zeros((space.num_classes, space.num_classes), np.int64)
    for item in list_items(cfg.corpus, cfg.val_split):
        bins, label = _bins(item, cfg)
        confusion += count_confusion(label, best[bins], space.num_classes)
    return mean_iou(confusion)


def _bins(item: Item, cfg: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour bin of each pixel, (H, W), and the label."""
    image, label = load_pair(item, cfg.label_space.space, cfg.max_pixels)
    levels = (image >> (8 - COLOUR_BITS)).astype(np.int64)
    return (levels[..., 0] << 2 * COLOUR_BITS) | (levels[..., 1] << COLOUR_BITS) | levels[..., 2], label


def _train_config(images: str, truths: str, output: str) -> TrainConfig:
    return parse(
        TrainConfig,
        {
            "corpus": {"images": images, "labels": truths, "layout": "cityscapes"},
            "train_split": "train",
            "val_split": "val",
            "label_space": "cityscapes19",
            "model": {
                "name": "deeplabv3plus",
                "backbone": "efficientnet_lite0",
                "output_stride": 16,
                "aspp_channels": 128,
                "decoder_channels": 128,
            },
            "weights": "imagenet",
            "output": output,
            "epochs": 8,
            "batch_size": 8,
            "augment": {"crop": [160, 256], "scale": [0.9, 1.4], "flip": True, "colour": 0.3},
            "optimizer": {
                "name": "adamw",
                "lr": 0.003,
                "backbone_lr_factor": 0.3,
                "weight_decay": 0.01,
                "warmup_steps": 10,
                "poly_power": 0.9,
            },
            "validate_every": 4,
            "precision": "fp32",
            "seed": SEED,
            "max_pixels": MAX_PIXELS,
            "workers": 2,
            "cpus_per_worker": 1,
        },
        where="demo",
    )


def _segment_config(images: str, truths: str, checkpoint: str, output: str) -> SegmentConfig:
    return parse(
        SegmentConfig,
        {
            "corpus": {"images": images, "labels": truths, "layout": "cityscapes"},
            "split": "val",
            "checkpoint": checkpoint,
            "output": output,
            "crf": {
                "iterations": 5,
                "smooth_weight": 1,
                "smooth_px": 1,
                "colour_weight": 2,
                "colour_px": 12,
                "colour_levels": 12,
            },
            "metrics": {"boundary_px": [2], "calibration_bins": 15},
            "images_per_shard": 8,
            "max_pixels": MAX_PIXELS,
            "max_reject_rate": 0,
            "actors": 1,
            "cpus_per_actor": 2,
        },
        where="demo",
    )
