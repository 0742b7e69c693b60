"""The tiny run that cluster tests submit: street scenes in the store, a small network, one image a shard."""

import yaml

from pipeline import storage
from pipeline.synthetic.scenes import write_corpus

VAL_IMAGES = 30


def segment_values(store):
    """A segment config over that corpus and the checkpoint that train.yaml leaves."""
    return {
        "corpus": {
            "images": storage.join(store, "corpus/leftImg8bit_trainvaltest.zip"),
            "labels": storage.join(store, "corpus/gtFine_trainvaltest.zip"),
            "layout": "cityscapes",
        },
        "split": "val",
        "checkpoint": storage.join(store, "train/best"),
        "output": storage.join(store, "run"),
        "predict": {"scales": [1.0] * 10},  # long enough to be broken off
        "images_per_shard": 1,
        "max_reject_rate": 0,
        "actors": 2,
        "cpus_per_actor": 1,
    }


def write_configs(folder, store):
    """Write the corpus into the store and train.yaml and segment.yaml into the folder; their paths."""
    images, labels = write_corpus(storage.join(store, "corpus"), {"train": 4, "val": VAL_IMAGES}, 64, 128, seed=1)
    corpus = segment_values(store)["corpus"]
    assert (images, labels) == (corpus["images"], corpus["labels"])
    train = {
        "corpus": corpus, "train_split": "train", "val_split": "val", "label_space": "cityscapes19",
        "model": {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 16,
                  "low_level_channels": 8, "decoder_channels": 16},
        "weights": "random", "output": storage.join(store, "train"), "epochs": 1, "batch_size": 4,
        "augment": {"crop": [64, 64], "scale": [1.0, 1.0], "flip": True, "colour": 0},
        "optimizer": {"name": "sgd", "lr": 0.01, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0,
                      "poly_power": 1},
        "validate_every": 1, "precision": "fp32", "seed": 0, "workers": 1, "cpus_per_worker": 1,
    }  # fmt: skip
    paths = []
    for name, values in (("train", train), ("segment", segment_values(store))):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(values))
    return [str(path) for path in paths]
