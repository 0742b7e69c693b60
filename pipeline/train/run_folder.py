"""Files beside the checkpoints of a run: config, environment, label counts, and the marker that it is finished."""

import hashlib
import importlib.metadata
import json
import platform
import socket
import time
from typing import Any

import numpy as np
import ray

from pipeline import __version__, storage
from pipeline.config import TrainConfig, differences, machine_keys, stage_configs, travelling
from pipeline.corpus import Item
from pipeline.corpus.detect import settled
from pipeline.errors import UserError
from pipeline.labels import ForeignValues, LabelSpace, Outside
from pipeline.runs.origin import commit
from pipeline.train.data import count_label
from pipeline.train.label_check import labelled, refuse_foreign

_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pydantic", "pyarrow", "safetensors", "Pillow")
_LABELS_A_TASK = 64


def with_layouts(cfg: TrainConfig) -> TrainConfig:
    """Return the config with the layouts of its corpus and of the stages' own; detected if neither config nor run names one."""
    if cfg.corpus.layout is not None:
        return cfg
    uri = storage.join(cfg.output, "config.json")
    kept = storage.read_json(uri) if storage.exists(uri) else {}
    stages = []
    for number, (stage, whole) in enumerate(zip(cfg.stages, stage_configs(cfg), strict=False)):
        if "corpus" in stage:
            held = kept["stages"][number].get("corpus") if len(kept.get("stages", ())) == len(cfg.stages) else None
            stage = stage | {"corpus": settled(whole.corpus, held).model_dump(mode="json")}
        stages.append(stage)
    return cfg.model_copy(update={"corpus": settled(cfg.corpus, kept.get("corpus")), "stages": tuple(stages)})


def require_splits(cfg: TrainConfig) -> None:
    """Raise UserError if a split has no label, or if an image (by id or file) is in both the training and validation split."""
    train, val = (labelled(cfg, split) for split in (cfg.train_split, cfg.val_split))
    seen: dict[object, str] = {}
    for item in train:
        seen[item.image_id] = seen[_file(item)] = item.image_id
    both = [(seen.get(item.image_id) or seen[_file(item)], item.image_id) for item in val if _is_in(item, seen)]
    if both:
        one, other = both[0]
        what = f"'{one}'" if one == other else f"'{one}' and '{other}', which are one file"
        raise UserError(
            f"{cfg.corpus.images}: {len(both)} images of val_split '{cfg.val_split}' are in train_split '{cfg.train_split}' "
            f"too, e.g. {what}; choose splits that share none, or make them with corpus.splits"
        )


def _file(item: Item) -> tuple[object, ...]:
    return item.image.uri, item.image.member, item.image.offset


def _is_in(item: Item, seen: dict[object, str]) -> bool:
    return item.image_id in seen or _file(item) in seen


def claim(cfg: TrainConfig) -> None:
    """Write config.json, or check that the existing run has the same config."""
    uri = storage.join(cfg.output, "config.json")
    wanted = cfg.model_dump(mode="json")
    if not storage.create(uri, json.dumps(wanted, indent=2).encode()):
        found = storage.read_json(uri)
        may_change = machine_keys(TrainConfig) | {f"model.{name}" for name in cfg.model.addresses}
        for values in (found, wanted):
            _name_uploads(values)
        changed = [line for line in differences(found, wanted) if line.split(":")[0] not in may_change]
        if changed:
            raise UserError(
                f"{cfg.output} holds a training run of another config: {'; '.join(changed)}; "
                "choose another output, or restore the config to continue that run"
            )


def _name_uploads(values: dict[str, Any]) -> None:
    """Name uploaded checkpoints as the job's config does, since Ray unpacks each job's files in another folder."""
    for section in (values, *values.get("stages", ())):
        if name := travelling.uploaded(section.get("start_from") or ""):
            section["start_from"] = f"{travelling.CHECKPOINTS}/{name}"


def bind_images(cfg: TrainConfig) -> None:
    """Write images.json, or check that the splits have the same labelled images as when the run began.

    Steps are counted in epochs of the first images, so a run cannot go on with others.
    """
    uri, wanted = storage.join(cfg.output, "images.json"), {}
    for split in (cfg.train_split, cfg.val_split):
        ids = [item.image_id for item in labelled(cfg, split)]
        wanted[split] = {"images": len(ids), "sha256": hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()}
    if storage.create(uri, json.dumps(wanted, indent=2).encode()):
        return
    found = storage.read_json(uri)
    for split, now in wanted.items():
        if found.get(split) != now:
            raise UserError(
                f"{cfg.output}: split '{split}' has {now['images']} labelled images, and had {found[split]['images']} (others, "
                "if the numbers are equal) when this training began; choose another output, or restore the images to go on"
            )


def add_environment(output: str) -> None:
    """Add this start to environment.json: versions, commit of the code, and machine of the driver."""
    uri = storage.join(output, "environment.json")
    try:
        starts = storage.read_json(uri)
    except FileNotFoundError:
        starts = []
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {"maskmill": __version__, **{name: _version(name) for name in _PACKAGES}},
    }
    storage.put(uri, json.dumps([*starts, start], indent=2).encode())


def is_finished(cfg: TrainConfig) -> bool:
    return storage.exists(storage.join(cfg.output, "_SUCCESS.json"))


def finish(cfg: TrainConfig) -> dict[str, Any]:
    """Write the marker that the run is complete, and return how its best checkpoint was trained."""
    best = storage.read(storage.join(cfg.output, "best", "checkpoint.json"))
    info: dict[str, Any] = json.loads(best)["info"]
    storage.put(storage.join(cfg.output, "_SUCCESS.json"), json.dumps({"best": info}, indent=2).encode())
    return info


def publish(stage: str, output: str) -> None:
    """Copy the checkpoints of the last stage to the place that they have in a run without stages."""
    for name in ("best", "last"):
        for file in ("model.safetensors", "checkpoint.json"):
            storage.put(storage.join(output, name, file), storage.read(storage.join(stage, name, file)))


def count_labels(cfg: TrainConfig) -> None:
    """Write label_counts.json, if the recipe needs it: Ray tasks read each training label once.

    Raises:
        UserError: at the first bad label, or after all labels if some have values that the label space lacks.
    """
    uri = storage.join(cfg.output, "label_counts.json")
    if not needs_counts(cfg) or storage.exists(uri):
        return
    items = labelled(cfg, cfg.train_split)
    shards = [items[start : start + _LABELS_A_TASK] for start in range(0, len(items), _LABELS_A_TASK)]
    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(counts_of)
    try:
        parts = ray.get([task.remote(shard, cfg.label_space.space, cfg.max_pixels) for shard in shards])
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from error
    refuse_foreign(cfg, [foreign for _, foreign in parts])
    rows = np.concatenate([counts for counts, _ in parts])
    counts = {item.image_id: row.tolist() for item, row in zip(items, rows, strict=True)}
    storage.put(uri, json.dumps(counts).encode())


def counts_of(items: list[Item], space: LabelSpace, max_pixels: int) -> tuple[np.ndarray, ForeignValues]:
    """Return (I, C) int64 labelled pixels of each item, and the values that the label space lacks."""
    counts, foreign = np.zeros((len(items), space.num_classes), np.int64), ForeignValues()
    for place, item in enumerate(items):
        try:
            counts[place] = count_label(item, space, max_pixels)
        except Outside as error:
            foreign.add(item.image_id, error.found)
    return counts, foreign


def read_counts(cfg: TrainConfig, items: list[Item]) -> np.ndarray | None:
    """Read the (I, C) counts of `count_labels`, in the order of the items; None if the recipe needs no counts."""
    if not needs_counts(cfg):
        return None
    counts = storage.read_json(storage.join(cfg.output, "label_counts.json"))
    return np.array([counts[item.image_id] for item in items], np.int64)


def needs_counts(cfg: TrainConfig) -> bool:
    return bool(cfg.loss.class_weights or cfg.augment.class_uniform)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
