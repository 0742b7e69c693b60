"""Segmentation networks: one file a family, chosen here by the config's name."""

from pipeline.config import ModelConfig
from pipeline.models.base import GridNetwork, Network, place_on_pixels
from pipeline.models.classifier import Classifier
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.deeplab_v1 import DeepLabV1
from pipeline.models.deeplab_v2 import DeepLabV2
from pipeline.models.deeplab_v3 import DeepLabV3
from pipeline.models.deeplab_v3plus import DeepLabV3Plus
from pipeline.models.fcn import Fcn
from pipeline.models.fcn_resnet import FcnResNet
from pipeline.models.hourglass import Hourglass
from pipeline.models.lraspp import Lraspp
from pipeline.models.segnet import SegNet
from pipeline.models.unet import UNet
from pipeline.models.weights import check_encoder, load_imagenet, published_config, published_weights, start_from

__all__ = [
    "NETWORKS",
    "Classifier",
    "GridNetwork",
    "Network",
    "build",
    "check_encoder",
    "place_on_pixels",
    "published_config",
    "published_weights",
    "start_from",
]

NETWORKS: dict[str, type[Network]] = {
    "classifier": Classifier,
    "fcn": Fcn,
    "fcn_resnet": FcnResNet,
    "deeplabv1": DeepLabV1,
    "deeplabv2": DeepLabV2,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "lraspp": Lraspp,
    "segnet": SegNet,
    "deconvnet": DeconvNet,
    "unet": UNet,
    "hourglass": Hourglass,
}


def build(cfg: ModelConfig, num_classes: int, pretrained: bool = False) -> Network:
    """The network a config describes; with `pretrained`, its backbone holds published ImageNet weights.

    Raises:
        UserError: settings that do not go together, or the published weights cannot be had on this machine.
    """
    network = NETWORKS[cfg.name](num_classes, **cfg.model_dump(exclude={"name"}))
    if pretrained:
        load_imagenet(network)
    return network
