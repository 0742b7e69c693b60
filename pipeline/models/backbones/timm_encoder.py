"""timm's networks as encoders (github.com/huggingface/pytorch-image-models).

Letters: N batch, D channels, H rows, W columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.config.models import TIMM
from pipeline.errors import UserError
from pipeline.models.base import IMAGENET_MEAN, IMAGENET_STD
from pipeline.models.outside import package, words


class TimmEncoder(nn.Module):
    """(N, 3, H, W) -> maps at the requested strides, finest first; the last one if there are several at a stride.

    The network is built on the CPU, whatever torch's default device is, and run once on a small image, since timm's networks
    differ in the sizes that they accept and in the order of their maps' dimensions.

    Args:
        backbone: timm/NAME; the name may end with a tag of weights, as in timm/resnet50.a1_in1k.
        strides: strides of the maps that it must have.
        optional: strides of maps that are used if it has them.
        output_stride: 32, or less by dilation if timm supports it.
    Raises:
        UserError: timm is missing, has no such network, or the network has no such maps.
    """

    def __init__(
        self, backbone: str, strides: Sequence[int], output_stride: int = 32, optional: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.title, self._name = f"model.backbone {backbone}", backbone.removeprefix(TIMM)
        self._options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        if self._name.startswith("swin"):
            self._options["strict_img_size"] = False  # otherwise it refuses all sizes but one, although it can take any
        net = self._create()
        reductions = net.feature_info.reduction()
        if missing := [stride for stride in strides if stride not in reductions]:
            raise UserError(
                f"{self.title}: its maps have strides {', '.join(map(str, reductions))}, and this network takes "
                f"{', '.join(map(str, strides))} of it, of which {missing[0]} is missing; choose another encoder of timm"
            )
        self.strides = sorted({*strides, *(stride for stride in optional if stride in reductions)})
        places = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in self.strides]
        if max(places) < len(reductions) - 1:  # later layers are not computed
            self._options["out_indices"] = tuple(range(max(places) + 1))
            net = self._create()
        self.places, self.net = places, net
        self.channels = tuple(net.feature_info.channels()[place] for place in places)
        seen = net.pretrained_cfg
        self.mean = tuple(seen.get("mean", IMAGENET_MEAN))
        self.std = tuple(seen.get("std", IMAGENET_STD))
        self.channels_last = False
        self._try()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = self.net(x)
        wanted = [maps[place] for place in self.places]
        return [one.permute(0, 3, 1, 2) for one in wanted] if self.channels_last else wanted

    def load(self, published: Mapping[str, torch.Tensor] | None) -> None:
        """Load ImageNet weights from timm's hub, or from a file in timm's layout.

        Raises:
            UserError: they are not available, or the file belongs to another network.
        """
        if published is None:
            net = self._downloaded()
        else:
            overlay = {"pretrained_cfg_overlay": {"state_dict": dict(published), "custom_load": False}}
            try:
                self._built(pretrained=True, **overlay)  # only as a classifier does timm report misfits
                net = self._built(pretrained=True, features_only=True, **self._options, **overlay)
            except Exception as error:
                raise UserError(
                    f"weights: the file is none of timm's for {self._name} ({words(error)}); give the file of that network, "
                    "classifier included, as the hub has it"
                ) from error
        self.net.load_state_dict(net.state_dict())

    def _downloaded(self) -> nn.Module:
        try:
            return self._built(pretrained=True, features_only=True, **self._options)
        except Exception as error:  # the hub's client raises many kinds
            raise UserError(
                f"weights: imagenet of {TIMM}{self._name} come from the Hugging Face hub, which failed ({words(error)}); set "
                "weights to a file of them that was fetched where there is a network, or to random"
            ) from error

    def _create(self) -> Any:
        try:
            return self._built(features_only=True, **self._options)
        except UserError:
            raise
        except Exception as error:
            stride = self._options.get("output_stride")
            if stride and self._can_be_built_without_dilation():
                raise UserError(
                    f"{self.title}: timm makes it at output stride 32 alone; set model.output_stride: 32, found {stride}"
                ) from error
            raise UserError(
                f"{self.title}: timm {package('timm', 'timm').__version__} makes no encoder of that name ({words(error)}); "
                "timm.list_models(pretrained=True) lists its networks"
            ) from error

    def _can_be_built_without_dilation(self) -> bool:
        try:
            self._built(features_only=True)
        except Exception:
            return False
        return True

    def _built(self, **options: Any) -> Any:
        with torch.device("cpu"):
            return package("timm", "timm").create_model(self._name, **options)

    @torch.no_grad()
    def _try(self) -> None:
        """Run one pass on a small image; sets `channels_last`."""
        height, width = 64, 96
        self.net.eval()
        try:
            with torch.device("cpu"):
                maps = self.forward(torch.zeros(1, 3, height, width))
        except Exception as error:
            raise UserError(
                f"{self.title}: it fails on an image of {height}x{width} pixels ({words(error)}); choose an encoder of timm "
                "that takes images of any size"
            ) from error
        found = [tuple(one.shape[1:]) for one in maps]
        sizes = [(height // stride, width // stride) for stride in self.strides]
        expected = [(channels, *size) for channels, size in zip(self.channels, sizes, strict=True)]
        self.channels_last = found == [(*size, channels) for channels, *size in expected]
        if found != expected and not self.channels_last:
            raise UserError(
                f"{self.title}: its maps of a {height}x{width} image have shapes {found}, expected {expected}"
            )
        self.net.train()
