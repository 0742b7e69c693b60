"""Published weights under our parameter names. A file is refused unless it has every parameter.

Known layouts: torchvision's classifiers and segmentation networks; FCN as released by wkentaro/pytorch-fcn (Caffe's names);
DeepLab v2 ResNet-101 as released by kazuto1011/deeplab-pytorch; DeepLab on MobileNetV2 and Xception-65 as in TensorFlow's
releases.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from pipeline.config import ModelConfig
from pipeline.errors import UserError
from pipeline.models import tensorflow_release
from pipeline.models.backbones.resnet import ResNet
from pipeline.models.bands import RGB, input_bands, widen
from pipeline.models.base import Network, Triple
from pipeline.models.classifier import Classifier, convolutionalise
from pipeline.models.deeplab_v2 import DeepLabV2
from pipeline.models.deeplab_v3plus import DeepLabV3Plus
from pipeline.models.exported import Exported
from pipeline.models.fcn import Fcn
from pipeline.models.imagenet import recognised

State = dict[str, torch.Tensor]
MOST_NAMES = 3  # most names of differing tensors of each kind in a message, to keep it short

_CAFFE_MEAN: Triple = (
    122.67891434 / 255,
    116.66876762 / 255,
    104.00698793 / 255,
)  # of RGB; Caffe's networks see levels
_DEEPLAB_MEAN: Triple = (122.675 / 255, 116.669 / 255, 104.008 / 255)  # of RGB; DeepLab rounds FCN's
_CAFFE_STD: Triple = (1 / 255, 1 / 255, 1 / 255)
_DEEPLAB2_NAMES = (  # deeplab-pytorch's -> torchvision's
    (r"^(?:base\.)?(?:module\.)?layer1\.conv1\.conv\.", "backbone.conv1."),
    (r"^(?:base\.)?(?:module\.)?layer1\.conv1\.bn\.", "backbone.bn1."),
    (r"^(?:base\.)?(?:module\.)?aspp\.c(\d+)\.", r"branches.\1."),
)
_DEEPLAB2_BLOCK = re.compile(
    r"^(?:base\.)?(?:module\.)?layer(\d)\.block(\d+)\.(reduce|conv3x3|increase|shortcut)\.(conv|bn)\.(.+)$"
)


@dataclass(frozen=True)
class Published:
    """Weights under our names, and the preprocessing of their training if it differs from the network's."""

    state: State
    mean: Triple | None = None
    std: Triple | None = None


def published_config(source: Mapping[str, torch.Tensor], cfg: ModelConfig) -> ModelConfig:
    """Return `cfg` completed with settings that follow from a published file's layout.

    Raises:
        UserError: `cfg` contradicts the file.
    """
    if cfg.name == "deeplabv3plus" and tensorflow_release.is_release(source):
        return tensorflow_release.fitted(source, cfg)
    if cfg.name != "deeplabv2" or cfg.backbone == "vgg16" or not _is_deeplab2(source):
        return cfg
    if cfg.resnet != "caffe" and "resnet" in cfg.model_fields_set:
        raise UserError(
            f"these weights are the released DeepLab v2's, whose ResNet is resnet=caffe, found resnet={cfg.resnet}: "
            "leave it out"
        )
    return cfg.model_copy(update={"resnet": "caffe"})


def published_weights(source: Mapping[str, torch.Tensor], network: Network) -> Published:
    """Return a published file's tensors under the names of this network.

    Raises:
        UserError: the file's layout is unknown, or tensors are missing, unexpected or have another shape (all are listed).
    """
    mean, std = None, None
    if isinstance(network, Fcn) and "conv1_1.weight" in source:
        state, mean, std = rename_caffe_fcn(source), _CAFFE_MEAN, _CAFFE_STD
    elif isinstance(network, DeepLabV2) and _is_deeplab2(source):
        if not isinstance(network.backbone, ResNet) or network.backbone.definition != "caffe":
            raise UserError("these weights are the released DeepLab v2's: set backbone: resnet101 and resnet: caffe")
        state, mean, std = rename_deeplab2(source), _DEEPLAB_MEAN, _CAFFE_STD
    elif isinstance(network, DeepLabV3Plus) and tensorflow_release.is_release(source):
        state, mean, std = tensorflow_release.rename(source), tensorflow_release.MEAN, tensorflow_release.STD
    elif isinstance(network, Classifier):
        if len([name for name in source if name.startswith(("classifier.", "fc."))]) != len(network.head.state_dict()):
            raise UserError(_mismatch(network.state_dict().keys(), source.keys(), []))
        if recognised(source) not in (None, network.name):  # ResNet-50's tensors are all among ResNet-101's
            raise UserError(f"the weights are of another network: the classifier {recognised(source)}")
        state = convolutionalise(source, network)
    else:
        state = dict(source)
    wanted = network.state_dict()
    state = {k: v for k, v in state.items() if k in wanted or not k.endswith("num_batches_tracked")}
    state |= {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked") and k not in state}
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the network's is {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & state.keys())
        if wanted[name].shape != state[name].shape
    ]
    if wanted.keys() != state.keys() or shapes:
        raise UserError(_mismatch(wanted.keys(), state.keys(), shapes))
    return Published(state, mean, std)


def start_from(network: Network, state: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Copy each tensor whose name and shape match; return (copied names, unchanged names).

    This way an FCN-16s starts from a 32s (its skip scores stay zero), and a network for other classes from a trained encoder.

    Raises:
        UserError: no tensor of the backbone matches.
    """
    own, fits = network.state_dict(), matching(network, state)
    network.load_state_dict({**own, **fits})
    return sorted(fits), sorted(own.keys() - fits.keys())


def matching(network: Network, state: Mapping[str, torch.Tensor]) -> State:
    """Return the tensors of `state` whose name and shape match one of the network's; UserError if none is of its backbone."""
    own = network.state_dict()
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    encoder = {id(value) for value in network.backbone.state_dict(keep_vars=True).values()}
    if not any(id(value) in encoder for name, value in network.state_dict(keep_vars=True).items() if name in fits):
        raise UserError(
            f"{type(network).__name__} cannot start from these weights: no tensor of its backbone is among their "
            f"{len(state)} by name and shape; give a checkpoint of the same backbone"
        )
    return fits


def fit_bands(network: Network, start: Network) -> None:
    """Adapt `start`, a checkpoint's network, to as many bands as `network` has; a network for RGB is inflated.

    Raises:
        UserError: `start` is an exported file, or its number of bands is neither three nor that of `network`.
    """
    if isinstance(start, Exported):
        raise UserError(
            "start_from: that checkpoint is an exported file, whose weights have no names to be found by; give a trained one"
        )
    wanted, found = input_bands(network), input_bands(start)
    if wanted != found and found != RGB:
        raise UserError(
            f"start_from: that checkpoint's network sees {found} bands, the config's {wanted}; give a checkpoint of {wanted} "
            f"bands or of RGB pictures, or name {found} bands in image.bands"
        )
    if wanted != found:
        widen(start, wanted, inflate=True)


def check_encoder(network: Network, start: Network) -> None:
    """Raise UserError if the weights of `start` match by name and shape but belong to another encoder."""
    one, other = network.backbone, start.backbone
    if isinstance(one, ResNet) and isinstance(other, ResNet) and one.definition != other.definition:
        raise UserError(
            f"start_from: that checkpoint's ResNet is of the {other.definition} definition, the config's of "
            f"{one.definition}'s, which subsamples elsewhere; set model.resnet: {other.definition}, or give another checkpoint"
        )


def rename_caffe_fcn(published: Mapping[str, torch.Tensor]) -> State:
    """Convert wkentaro/pytorch-fcn's FCN (Caffe's names and BGR input) to our names, for RGB."""
    renamed = {}
    for name, value in published.items():
        new = re.sub(r"^(conv\d_\d)\.", r"backbone.\1.", name)
        new = re.sub(r"^upscore(8|16)?\.", "upscore.transposed.", new)
        new = re.sub(r"^(upscore2|upscore_pool4)\.", r"\1.transposed.", new)
        renamed[new] = value
    renamed["backbone.conv1_1.weight"] = renamed["backbone.conv1_1.weight"].flip(1)
    return renamed


def rename_deeplab2(published: Mapping[str, torch.Tensor]) -> State:
    """Convert kazuto1011/deeplab-pytorch's DeepLab v2 ResNet-101 (Caffe's BGR input) to our names, for RGB."""
    places = {"reduce": "1", "conv3x3": "2", "increase": "3"}
    renamed = {}
    for name, value in published.items():
        block = _DEEPLAB2_BLOCK.match(name)
        if block is None:
            renamed[_renamed(name, _DEEPLAB2_NAMES) or name] = value
            continue
        stage, number, layer, kind, leaf = block.groups()
        base = f"backbone.layer{int(stage) - 1}.{int(number) - 1}"
        inner = f"downsample.{0 if kind == 'conv' else 1}" if layer == "shortcut" else f"{kind}{places[layer]}"
        renamed[f"{base}.{inner}.{leaf}"] = value
    renamed["backbone.conv1.weight"] = renamed["backbone.conv1.weight"].flip(1)
    return renamed


def _is_deeplab2(source: Mapping[str, torch.Tensor]) -> bool:
    return any("layer1.conv1.conv" in name for name in source)


def _renamed(name: str, patterns: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in patterns:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def _mismatch(wanted: Iterable[str], found: Iterable[str], shapes: list[str]) -> str:
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    parts = [
        f"missing {len(missing)} ({_some(missing)})" if missing else "",
        f"unexpected {len(unexpected)} ({_some(unexpected)})" if unexpected else "",
        f"other shapes {len(shapes)} ({_some(shapes)})" if shapes else "",
    ]
    return f"the weights are of another network: {'; '.join(part for part in parts if part)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
