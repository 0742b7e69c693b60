"""Image classifiers turned into dense predictors: fully-connected layers become convolutions (arXiv:1411.4038, section 3.1).

Parameter names are torchvision's; a classifier's weights load after `convolutionalise`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import ClassifierConfig, ClassifierName
from pipeline.errors import UserError
from pipeline.models.base import GridNetwork, place_on_pixels

IMAGE_SIZE = 224  # side of the images that the classifiers were trained on
_REST = "rest"

# Input size that gives a single score without padding: the receptive field.
_RECEPTIVE = {"alexnet": 355, "vgg16": 404, "googlenet": 571, "resnet18": 627, "resnet50": 619}


class Classifier(GridNetwork):
    """A classifier applied to all positions of an image at once: a score for each window, at the network's stride of 32.

    With `padding: same` the layers pad with zeros as the classifier does. On a 224x224 image the single score is the
    classifier's output; on a larger image the scores differ from those of a sliding window, since a window is surrounded by the
    image instead of zeros. With `padding: valid` there is no padding: each score depends only on its window (the receptive
    field), so the scores equal those of a sliding window.

    Raises:
        UserError: `merged` names outputs that do not exist or are repeated, or has a wrong number of classes.
    """

    variants = (
        ({"backbone": "alexnet"}, "arXiv:1404.5997, 1411.4038 s. 3.1"),
        ({"backbone": "vgg16"}, "arXiv:1409.1556, 1411.4038 s. 3.1"),
        ({"backbone": "googlenet"}, "arXiv:1409.4842, 1411.4038 s. 3.1"),
        ({"backbone": "resnet18"}, "arXiv:1512.03385"),
        ({"backbone": "resnet50"}, "arXiv:1512.03385"),
    )

    def __init__(self, cfg: ClassifierConfig, num_classes: int) -> None:
        super().__init__()
        self.name, valid = cfg.backbone, cfg.padding == "valid"
        self.stride = 32
        self.window = _RECEPTIVE[self.name] if valid else IMAGE_SIZE
        self.min_size, self.multiple_of = 32, 1 if valid else 32
        self.margin = (self.window - 31) // 2
        self.centre = (self.window - 1) / 2 - self.margin
        if self.name == "googlenet":  # torchvision's converts its input to -1..1
            self.mean = self.std = (0.5, 0.5, 0.5)
        self.backbone, width, size = _encoder(self.name)
        self.merge, last = _merge(cfg, num_classes)
        self.head = (
            _fully_connected(width, size, cfg.fc_channels, last, cfg.dropout, first=0 if self.name == "vgg16" else 1)
            if size
            else nn.Sequential(nn.AvgPool2d(7, 1), nn.Dropout(cfg.dropout), nn.Conv2d(width, last, 1))
        )
        if valid:
            _remove_padding(self.backbone)

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, (H - window) // 32 + 1, ...): one score for each window inside the image."""
        return self.merge(self.head(self.backbone(x)))

    def extend(self, x: torch.Tensor) -> torch.Tensor:
        """Pad the image with zeros so that each of its 32x32 blocks is the middle of a window."""
        return F.pad(x, [self.margin] * 4)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H // 32, W // 32): one score for each 32x32 block, from the window around it."""
        return self.classify(self.extend(x))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]: a window's score belongs to its middle."""
        self.check_size(x)
        return [place_on_pixels(self.scores(x), self.stride, self.centre, x.shape[-2], x.shape[-1])]


def convolutionalise(published: Mapping[str, torch.Tensor], network: Classifier) -> dict[str, torch.Tensor]:
    """Rename a torchvision classifier's weights for the network, and reshape fully-connected matrices to convolution kernels.

    A matrix whose size does not fit the kernel is kept, so that the caller can report it.
    """
    wanted = network.state_dict()
    own_head = [name for name in wanted if name.startswith("head.")]
    their_head = [name for name in published if name.startswith(("classifier.", "fc."))]
    renamed = {f"backbone.{name}": value for name, value in published.items() if name not in their_head}
    renamed |= {ours: published[theirs] for ours, theirs in zip(own_head, their_head, strict=True)}
    return {
        name: value.reshape(wanted[name].shape) if name in own_head and value.numel() == wanted[name].numel() else value
        for name, value in renamed.items()
        if name in wanted
    }


class MergedOutputs(nn.Module):
    """(N, outputs, h, w) -> (N, C, h, w) by log-sum-exp, so that the probabilities of a class's outputs add up."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.sizes = [len(group) for group in groups]
        order = torch.tensor([number for group in groups for number in group])
        self.register_buffer("order", order, persistent=False)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        groups = scores.index_select(1, self.get_buffer("order")).split(self.sizes, dim=1)
        return torch.cat([group.logsumexp(dim=1, keepdim=True) for group in groups], dim=1)


def _merge(cfg: ClassifierConfig, num_classes: int) -> tuple[nn.Module, int]:
    """Return the module from the last layer's outputs to classes, and the number of outputs."""
    if (cfg.merged is None) != (cfg.outputs is None):
        raise UserError("classifier: outputs and merged belong together: give both or neither")
    if cfg.merged is None or cfg.outputs is None:
        return nn.Identity(), num_classes
    if len(cfg.merged) != num_classes:
        raise UserError(
            f"classifier: merged makes {len(cfg.merged)} classes, and the label space has {num_classes}; give one a class"
        )
    return MergedOutputs(groups(cfg.merged, cfg.outputs)), cfg.outputs


def groups(merged: Sequence[str], outputs: int) -> list[list[int]]:
    """Parse the outputs of each class from texts such as "281-285+7" and "rest".

    >>> groups(["2-3+0", "rest"], outputs=6)
    [[2, 3, 0], [1, 4, 5]]

    Raises:
        UserError: a text is malformed, an output does not exist or is in two classes, or nothing is left for `rest`.
    """
    found = [[] if text == _REST else _numbers(text, outputs) for text in merged]
    taken = [number for group in found for number in group]
    if twice := sorted({number for number in taken if taken.count(number) > 1}):
        raise UserError(
            f"output {twice[0]} of the classifier is given to two classes, in {' and '.join(merged)}; give it to one"
        )
    rest = sorted(set(range(outputs)) - set(taken))
    if merged.count(_REST) > 1 or (_REST in merged and not rest):
        raise UserError(
            f"'{_REST}' is for one class, of the outputs that no other has; {len(rest)} are left: leave it out"
        )
    return [rest if text == _REST else group for text, group in zip(merged, found, strict=True)]


def _numbers(text: str, outputs: int) -> list[int]:
    numbers: list[int] = []
    for part in text.split("+"):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(first) > int(last or first):
            raise UserError(
                f"'{text}' names no outputs of a classifier; write class=7, class=281-285, class=7+9-11 or class={_REST}"
            )
        numbers += range(int(first), int(last or first) + 1)
    if max(numbers) >= outputs:
        raise UserError(
            f"'{text}': the classifier's outputs are 0 to {outputs - 1}; ImageNet's are numbered from 0 in the order of its ids"
        )
    return numbers


def _encoder(name: ClassifierName) -> tuple[nn.Module, int, int]:
    """Return the convolutions, their channels, and the side of the map that is flattened for fc6 (0: it is averaged)."""
    import torchvision

    match name:
        case "alexnet" | "vgg16":
            whole = torchvision.models.get_model(name, weights=None)
            return _Chain({"features": whole.features}), *((256, 6) if name == "alexnet" else (512, 7))
        case "googlenet":
            whole = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=True)
            kept = {k: v for k, v in whole.named_children() if k not in ("avgpool", "dropout", "fc")}
            return _Chain(kept), 1024, 0
        case "resnet18" | "resnet50":
            whole = torchvision.models.get_model(name, weights=None)
            kept = {k: v for k, v in whole.named_children() if k not in ("avgpool", "fc")}
            return _Chain(kept), whole.fc.in_features, 0


class _Chain(nn.Module):
    """A sequence of named layers."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def _fully_connected(
    width: int, size: int, fc_channels: int, num_classes: int, dropout: float, first: int
) -> nn.Sequential:
    """Return fc6, fc7, fc8 as convolutions; AlexNet has dropout before a layer, VGG16 after it."""
    layers: list[nn.Module] = []
    for in_channels, kernel in ((width, size), (fc_channels, 1)):
        layer = [nn.Conv2d(in_channels, fc_channels, kernel), nn.ReLU(inplace=True)]
        layers += [*layer, nn.Dropout(dropout)] if first == 0 else [nn.Dropout(dropout), *layer]
    return nn.Sequential(*layers, nn.Conv2d(fc_channels, num_classes, 1))


def _remove_padding(network: nn.Module) -> None:
    """Remove the padding of convolutions and poolings; if branches then differ in size, the larger ones are cropped."""
    from torchvision.models.googlenet import Inception
    from torchvision.models.resnet import BasicBlock, Bottleneck

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.padding = (0, 0) if isinstance(module, nn.Conv2d) else 0
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = False
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BasicBlock | Bottleneck):
                setattr(parent, name, _ValidResidual(child, isinstance(child, Bottleneck)))
            elif isinstance(child, Inception):
                setattr(parent, name, _ValidInception(child))


class _ValidResidual(nn.Module):
    """A residual block without padding: the shortcut is cropped like the output of the 3x3 convolutions."""

    relu: nn.Module
    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Module
    bn3: nn.Module
    downsample: nn.Module

    def __init__(self, block: nn.Module, bottleneck: bool) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.bottleneck = bottleneck

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        shortcut = x[..., 1:-1, 1:-1]  # the centre of the first 3x3 window
        if hasattr(self, "downsample"):
            shortcut = self.downsample(shortcut)
        return self.relu(y + _middle(shortcut, y))


class _ValidInception(nn.Module):
    """An inception module without padding: each branch is cropped to the smallest."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, layer in module.named_children():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [branch(x) for branch in self.children()]
        least = min(branches, key=lambda branch: branch.shape[-1])
        return torch.cat([_middle(branch, least) for branch in branches], dim=1)


def _middle(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return x[..., top : top + like.shape[-2], left : left + like.shape[-1]]
