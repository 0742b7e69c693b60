"""Import of published weights: the network is recognised by the file's tensors; the user gives what they do not show."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import labels, models
from pipeline.config import ModelConfig, parse_model
from pipeline.config.models import NETWORK_SECTIONS
from pipeline.errors import UserError
from pipeline.labels import MAX_CLASSES, LabelSpace
from pipeline.models import checkpoint, published_file, tensorflow_release
from pipeline.models.classifier import groups
from pipeline.models.imagenet import recognised
from pipeline.models.listing import count_classes, variants

DEFAULT_SPACE = "voc21"  # for files with 21 classes, as in torchvision's networks and the releases of FCN and DeepLab
# Settings that cannot be seen from a file's tensors, since the same weights load with any of their values.
_UNSEEN = {
    "fcn": ("at_once",),
    "fcn_resnet": ("output_stride",),
    "deeplabv2": ("rates", "scales"),
    "deeplabv3": ("output_stride", "rates"),
    "deeplabv3plus": ("output_stride", "aspp_rates"),
}


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was made from a file."""

    cfg: ModelConfig
    space: LabelSpace
    sha256: str  # of the file
    unseen: dict[str, Any]  # the values used for settings that the file does not show


def import_weights(
    source: str,
    given: Mapping[str, Any],
    space: LabelSpace | None,
    output: str,
    classes: Mapping[str, str] | None = None,
) -> Imported:
    """Turn a published file into a checkpoint.

    Args:
        given: settings of the network from the user, with or without `name`; the others come from the file.
        space: the label space; None: VOC's, if there are 21 classes.
        classes: for an image classifier, name of a class -> its outputs, as `classifier.groups` reads them.
    Raises:
        UserError: the file fits no network here, or several, or its classes are unknown; the message says what to set.
    """
    if classes is not None and space is not None:
        raise UserError("--classes and --label-space both say what the classes are; give one of them")
    if "name" in given:
        parse_model(dict(given), where="--model")
    tensors, _ = published_file.read(source)
    num_classes = count_classes(tensors)
    if classes is not None:
        groups(list(classes.values()), num_classes)
        given = {"name": "classifier", "outputs": num_classes, "merged": list(classes.values()), **given}
        space = labels.from_section({"classes": list(classes)}, where="--classes")
        num_classes = space.num_classes
    found = list(_fitting(tensors, given, num_classes))
    if len(found) > 1:
        raise UserError(
            f"weights {source}: they fit several networks: {'; '.join(map(_options, found))}; give one of these"
        )
    if not found:
        cfg = _named(source, tensors, given)  # importing it will report the differences
        return _imported(source, cfg, space or labels.space(DEFAULT_SPACE), output)
    (cfg,) = found
    return _imported(source, cfg, _space(source, cfg, num_classes, space), output)


def _imported(source: str, cfg: ModelConfig, space: LabelSpace, output: str) -> Imported:
    sha256 = checkpoint.import_published(source, cfg, space, output)
    values = cfg.model_dump(mode="json")
    return Imported(cfg, space, sha256, {key: values[key] for key in _UNSEEN.get(cfg.name, ())})


def _fitting(source: Mapping[str, torch.Tensor], given: Mapping[str, Any], num_classes: int) -> Iterator[ModelConfig]:
    """Yield every listed network with the given settings that the file's tensors fit exactly."""
    listed: list[ModelConfig] = []
    families = _families(source)
    for row, _ in variants():
        if row["name"] not in families:
            continue
        section = NETWORK_SECTIONS[str(row["name"])].model_fields
        seen = {"aux": any(name.startswith("aux_classifier.") for name in source), "fc_channels": _fc_channels(source)}
        values = {**{key: value for key, value in seen.items() if value is not None and key in section}, **row}
        if any(key in values and values[key] != value for key, value in given.items()):
            continue
        try:
            cfg = models.published_config(source, parse_model({**values, **given}, where="--model"))
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about AlexNet's published kernel
                models.published_weights(source, models.build(cfg, num_classes))
        except UserError:
            continue
        if cfg not in listed:  # rows may differ only in what the file decides
            listed.append(cfg)
            yield cfg


def _families(source: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the families that are possible given the names of some tensors, so that not every network must be built."""
    if tensorflow_release.is_release(source):
        return {"deeplabv3plus"}
    if any(name.startswith("backbone.") for name in source):
        heads = {name.split(".")[0] for name in source} - {"aux_classifier"}
        torchvisions = {"fcn_resnet", "deeplabv3", "lraspp"}
        return torchvisions if heads == {"backbone", "classifier"} else set(NETWORK_SECTIONS) - torchvisions
    if "conv1_1.weight" in source:
        return {"fcn"}
    return {"deeplabv2"} if any("layer1.conv1.conv" in name for name in source) else {"classifier"}


def _fc_channels(source: Mapping[str, torch.Tensor]) -> int | None:
    """Return the channels of fc6, under its name in FCN, in torchvision's VGG16, or in AlexNet."""
    names = ("fc6.weight", "classifier.0.weight", "classifier.1.weight")
    return next((len(source[name]) for name in names if name in source and source[name].ndim > 1), None)


def _named(source: str, tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> ModelConfig:
    """Return the network that the user named; if none was named, UserError says what the file looks like."""
    if "name" in given:
        return parse_model(dict(given), where="--model")
    names = list(tensors)
    what = f"ImageNet's {recognised(tensors)}" if recognised(tensors) else "no network that is known here"
    raise UserError(
        f"weights {source}: {len(names)} tensors, {names[0] if names else 'none'} the first and "
        f"{names[-1] if names else 'none'} the last: {what}. If you know whose they are, give --model NAME and its settings "
        "as --set key=value, and what differs is listed; as the start of an encoder, set `weights: FILE` in a training config"
    )


def _space(source: str, cfg: ModelConfig, num_classes: int, space: LabelSpace | None) -> LabelSpace:
    """Return the label space of the file's classes; UserError if the user has to give it."""
    if num_classes > MAX_CLASSES:
        raise UserError(
            f"weights {source}: {_options(cfg)} with {num_classes} classes, and a mask holds at most {MAX_CLASSES}; name the "
            "outputs of an ImageNet classifier that masks shall show, --classes cat=281-285,dog=151-268,other=rest, or start "
            "your own classes from it: set `weights: FILE` in a training config"
        )
    if space is None and num_classes == labels.space(DEFAULT_SPACE).num_classes:
        return labels.space(DEFAULT_SPACE)
    if space is not None and space.num_classes == num_classes:
        return space
    known = [name for name in labels.SPACES if labels.space(name).num_classes == num_classes]
    fitting = f"built in with as many: {', '.join(known)}" if known else "a YAML file of classes"
    has = "" if space is None else f", the label space '{space.name}' has {space.num_classes}"
    raise UserError(
        f"weights {source}: {_options(cfg)} with {num_classes} classes{has}; what they mean is not in the file: give "
        f"--label-space ({fitting})"
    )


def _options(cfg: ModelConfig) -> str:
    """Return the settings of a network that differ from its defaults, as options of the command."""
    values = cfg.model_dump(mode="json", exclude_defaults=True)
    return " ".join(
        [f"--model {cfg.name}", *(f"--set {key}={value}" for key, value in values.items() if key != "name")]
    )
