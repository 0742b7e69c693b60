"""One section a network family: what its class in pipeline/models/ is built from. Defaults are the papers'.

The sections stand here and not beside their classes, so that reading a config does not import torch.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.config.base import Section, Size, added_later
from pipeline.config.user_code import Folder
from pipeline.errors import UserError

UpsamplingName = Literal[
    "nearest", "bed_of_nails", "bilinear", "bicubic", "transposed", "transposed_fixed", "max_unpooling"
]
Interpolation = Literal["nearest", "bed_of_nails", "bilinear", "bicubic", "transposed", "transposed_fixed"]
ClassifierName = Literal["alexnet", "vgg16", "googlenet", "resnet18", "resnet50"]
FcnBackboneName = Literal["vgg16", "alexnet", "googlenet"]
BackboneName = Literal[  # of DeepLabv3+
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenet_v2", "mobilenet_v3_large", "resnet50",
    "resnet101", "xception65",
]  # fmt: skip
ExportedForm = Literal["onnx", "torch_export", "torchscript", "pickle"]
Layout = Literal["NCHW", "NHWC"]
Scores = Literal["logits", "probs", "ids"]
TIMM = "timm/"  # before the name of an encoder of timm, in the place of one of ours
Channels = Annotated[int, Field(ge=1)]
Rates = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class NetworkSection(Section):
    """What the sections of all families have."""

    network: ClassVar[str]  # module and class in pipeline/models/
    addresses: ClassVar[frozenset[str]] = (
        frozenset()
    )  # keys that say where something lies, and decide nothing themselves


def _timms(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"{TIMM}[\w.-]+", value) is not None


def _or_timm(names: Any) -> WrapValidator:
    """One of the names of a Literal, or an encoder of timm."""

    def check(value: Any, _: ValidatorFunctionWrapHandler) -> Any:
        if _timms(value) or value in get_args(names):
            return value
        raise UserError(
            f"found {value!r}; choose one of {', '.join(get_args(names))}, or an encoder of timm as {TIMM}NAME"
        )

    return WrapValidator(check)


def _timms_alone(value: str | None) -> str | None:
    if value is None or _timms(value):
        return value
    raise UserError(f"found '{value}'; it must be {TIMM}NAME, such as {TIMM}resnet34")


class ClassifierConfig(NetworkSection):
    """An image classifier at every place of the image: fully-connected layers as convolutions (arXiv:1411.4038, 3.1)."""

    network = "classifier.Classifier"
    name: Literal["classifier"]
    """Chooses this network."""
    backbone: ClassifierName = "vgg16"
    """The classifier whose layers are taken."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros; with `valid` the scores equal those of a slid window."""
    dropout: Share = 0.5
    """Share of the head's features that is dropped at each training step."""
    fc_channels: Channels = 4096
    """[channels] Of fc6 and fc7; AlexNet and VGG16 only."""
    outputs: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)
    """Of the last layer, where several of them make up a class. Absent: as many as there are classes."""
    merged: tuple[str, ...] | None = added_later(None)
    """For each class its outputs, counted from 0, such as `281-285` or `7+9`; `rest` is all that no other class has. A class is
    as probable as its outputs together. `import-weights --classes` sets it."""


class FcnConfig(NetworkSection):
    """FCN-32s, -16s, -8s (arXiv:1411.4038)."""

    network = "fcn.Fcn"
    name: Literal["fcn"]
    """Chooses this network."""
    backbone: Annotated[FcnBackboneName, _or_timm(FcnBackboneName)] = "vgg16"
    """The encoder: the paper's, or one of timm's, such as timm/resnet34, which has neither fc6 nor fc7."""
    stride: Literal[32, 16, 8] = 8
    """[pixels] Stride of the finest scores that are used; 16 and 8: not on AlexNet and GoogLeNet."""
    upsampling: Interpolation = "transposed"
    """How scores are enlarged at each step. `transposed` starts as bilinear interpolation and is learnt, as the paper's
    inner steps; `transposed_fixed` stays bilinear, as all steps of the released networks."""
    last_upsampling: Interpolation | None = added_later(None)
    """The last step's way alone. Absent: as `upsampling`. The paper's is `transposed_fixed` (section 4.3)."""
    at_once: bool = False
    """Train in one stage: pool4 and pool3 are scaled by 0.01 and 0.0001, as released."""
    fc_channels: Channels = 4096
    """[channels] Of fc6 and fc7; AlexNet and VGG16 only."""
    dropout: Share = 0.5
    """Share of the features after fc6 and fc7 that is dropped at each training step."""


class FcnResNetConfig(NetworkSection):
    """torchvision's FCN on a dilated ResNet."""

    network = "fcn_resnet.FcnResNet"
    name: Literal["fcn_resnet"]
    """Chooses this network."""
    backbone: Literal["resnet50", "resnet101"] = "resnet50"
    """The encoder."""
    output_stride: Literal[8, 16, 32] = 8
    """[pixels] Stride of the encoder's last map: 8 is finest and slowest."""
    aux: bool = True
    """Add a second head on the third stage, for deep supervision."""


class DeepLabV1Config(NetworkSection):
    """The first DeepLab (arXiv:1412.7062): LargeFOV by default, and the other fields of view of table 2."""

    network = "deeplab_v1.DeepLabV1"
    name: Literal["deeplabv1"]
    """Chooses this network."""
    kernel: Literal[7, 4, 3] = added_later(3)
    """[taps] Side of fc6: 3 is LargeFOV."""
    rate: int = Field(default_factory=lambda before: {7: 4, 4: 8, 3: 12}[before["kernel"]], ge=1)
    """[pixels] Distance between the taps of fc6. Absent: table 2's, 12 for kernel 3, 8 for 4 (DeepLab-CRF-4x4; DeepLab-CRF's
    smaller field is 4) and 4 for 7."""
    fc_channels: Channels = Field(default_factory=lambda before: 1024 if before["kernel"] == 3 else 4096)
    """[channels] Of fc6 and fc7. Absent: 1024 for kernel 3, VGG16's 4096 for 7 and 4."""
    multi_scale: bool = added_later(False)
    """Add features of the image and of the first four poolings to fc7's (MSc). The paper trains them alone, from a network
    without them: `start_from` and `freeze_all_but_head`."""
    dropout: Share = 0.5
    """Share of the features after fc6 and fc7 that is dropped at each training step."""


class DeepLabV2Config(NetworkSection):
    """DeepLab v2 (arXiv:1606.00915): atrous spatial pyramid."""

    network = "deeplab_v2.DeepLabV2"
    name: Literal["deeplabv2"]
    """Chooses this network."""
    backbone: Literal["vgg16", "resnet50", "resnet101"] = "resnet101"
    """The encoder."""
    resnet: Literal["torchvision", "caffe"] = added_later("torchvision")
    """Which ResNet: torchvision's, whose ImageNet weights fit, or the released network's (`import-weights` sets it), which
    takes images of any size. ResNets only."""
    rates: Rates = (6, 12, 18, 24)
    """[pixels] Distances between the taps of the branches: ASPP-L; ASPP-S is 2, 4, 8, 12 (figure 7)."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=2)], ...], Field(min_length=1)] = (1.0,)
    """Sizes of the input that run with shared weights, as factors; the paper's multi-scale input is 1, 0.75, 0.5."""
    fc_channels: Channels = 1024
    """[channels] Of fc6 and fc7; VGG16 only."""
    dropout: Share = 0.5
    """Share of the features that is dropped at each training step; VGG16 only."""


def deeplabv3_rates(backbone: str, output_stride: int) -> tuple[int, ...]:
    """The pyramid's rates where a config names none: (6, 12, 18) at output stride 16, twice as much at 8.

    torchvision's network on MobileNetV3 has (12, 24, 36) at 16, and its published weights are of these.
    """
    doubled = output_stride == 8 or backbone == "mobilenet_v3_large"
    return (12, 24, 36) if doubled else (6, 12, 18)


class DeepLabV3Config(NetworkSection):
    """DeepLabv3 (arXiv:1706.05587); at output stride 8, and on MobileNetV3, the defaults are torchvision's networks."""

    network = "deeplab_v3.DeepLabV3"
    name: Literal["deeplabv3"]
    """Chooses this network."""
    backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large"] = "resnet50"
    """The encoder."""
    output_stride: Literal[8, 16] = 8
    """[pixels] Stride of the encoder's last map: 8 is finest and slowest; MobileNetV3: 16."""
    multi_grid: Annotated[tuple[int, int, int], Field()] | None = None
    """Relative rates of the last stage's three blocks; the paper's best is 1, 2, 4. Absent: torchvision's, which is 1, 1, 1
    with the first block at the rate of the stage before."""
    rates: Rates = Field(default_factory=lambda before: deeplabv3_rates(before["backbone"], before["output_stride"]))
    """[pixels] Distances between the taps of the branches. Absent: 12, 24, 36 at output stride 8 and 6, 12, 18 at 16 (section
    3.3); MobileNetV3 has torchvision's 12, 24, 36 at 16."""
    aux: bool = True
    """Add a second head on an earlier map, for deep supervision: torchvision's, not the paper's."""


class DeepLabV3PlusConfig(NetworkSection):
    """DeepLabv3+ (arXiv:1802.02611): atrous pyramid and decoder; without decoder DeepLabv3, as on MobileNetV2
    (arXiv:1801.04381, section 6.3)."""

    network = "deeplab_v3plus.DeepLabV3Plus"
    name: Literal["deeplabv3plus"]
    """Chooses this network."""
    backbone: Annotated[BackboneName, _or_timm(BackboneName)] = "efficientnet_lite0"
    """The encoder; efficientnet_lite0 is the lightest, resnet101 and xception65 are the paper's. Any of timm's that has maps at
    stride 4 and at output_stride: timm/NAME, such as timm/convnext_tiny (pip install 'maskmill[timm]')."""
    output_stride: Literal[8, 16, 32] = 16
    """[pixels] Stride of the encoder's last map: 8 is finest and slowest."""
    aspp_channels: int = Field(256, ge=8)
    """[channels] Of the pyramid; the paper's is 256."""
    aspp_rates: tuple[Annotated[int, Field(ge=1)], ...] = (6, 12, 18)
    """[pixels] Distances between the taps of the branches at output stride 16; doubled at 8, halved at 32. []: a 1x1
    convolution and the image pooling alone, as released on MobileNetV2."""
    decoder: bool = added_later(True)
    """Add detail from the fine map; without it the logits are the pyramid's, at the output stride."""
    skip_strides: Annotated[tuple[Literal[16, 8, 4, 2], ...], Field(min_length=1)] = added_later((4,))
    """[pixels] Strides of the backbone's maps that the decoder adds, coarsest first; the logits have the last one. The paper's
    is [4]; [8, 4] is Panoptic-DeepLab's (arXiv:1911.10194, section 3.2). [16, 8, 4] with output_stride 32 costs less a view
    than [4] with 16; 2 at the end takes 1.7 times as long. xception65: [4] alone."""
    low_level_channels: int = Field(48, ge=8)
    """[channels] Of each of these maps, as the decoder takes them."""
    decoder_channels: int = Field(256, ge=8)
    """[channels] Of the decoder, half of them at stride 2; the paper's is 256."""
    aux: bool = added_later(False)
    """Train a second head on the pyramid's features, for deep supervision (`loss.aux_weight`); it costs nothing afterwards."""
    separable: bool = True
    """Use depthwise separable convolutions in pyramid and decoder, section 3.2."""
    dropout: Share = 0.1
    """Share of the pyramid's features that is dropped at each training step."""
    upsampling: Interpolation = "bilinear"
    """How the pyramid and the logits are enlarged."""
    align_corners: bool = added_later(False)
    """Enlarge as the TensorFlow releases do (`import-weights` sets it): sides are multiples of the output stride plus 1, and
    corner pixels lie on corner scores. With `upsampling: bilinear` only."""


class LrasppConfig(NetworkSection):
    """Lite R-ASPP on MobileNetV3 (arXiv:1905.02244)."""

    network = "lraspp.Lraspp"
    name: Literal["lraspp"]
    """Chooses this network."""
    inter_channels: Channels = 128
    """[channels] Of the gated branch."""


class SegNetConfig(NetworkSection):
    """SegNet and SegNet-Basic (arXiv:1511.00561)."""

    network = "segnet.SegNet"
    name: Literal["segnet"]
    """Chooses this network."""
    variant: Literal["vgg16", "basic"] = "vgg16"
    """`vgg16` is SegNet, `basic` the small SegNet-Basic."""
    upsampling: UpsamplingName = "max_unpooling"
    """How the decoder enlarges; bilinear: the paper's Bilinear-Interpolation variant."""


class DeconvNetConfig(NetworkSection):
    """DeconvNet (arXiv:1505.04366)."""

    network = "deconvnet.DeconvNet"
    name: Literal["deconvnet"]
    """Chooses this network."""
    upsampling: UpsamplingName = "max_unpooling"
    """How the decoder enlarges."""
    fc_channels: Channels = 4096
    """[channels] Of fc6 and fc7."""


class UNetConfig(NetworkSection):
    """U-Net (arXiv:1505.04597)."""

    network = "unet.UNet"
    name: Literal["unet"]
    """Chooses this network."""
    backbone: Annotated[str, AfterValidator(_timms_alone)] | None = added_later(None)
    """An encoder of timm in place of the paper's, such as timm/resnet34: its maps are the skips. Absent: the paper's."""
    channels: Channels = 64
    """[channels] Of the first stage; doubled at each pooling. With `backbone`, of the decoder alone."""
    depth: int = Field(default_factory=lambda before: 5 if before.get("backbone") else 4, ge=1, le=6)
    """[poolings] Halvings of the image on the way down. Absent: the paper's 4; 5 with `backbone`, as deep as most are."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros; the paper's is `valid`."""
    batch_norm: bool = False
    """Normalise after each convolution."""
    upsampling: Interpolation = "transposed"
    """How the way up enlarges: the paper's "up-convolution", with a 2x2 kernel."""


class HourglassConfig(NetworkSection):
    """Stacked hourglass (arXiv:1603.06937)."""

    network = "hourglass.Hourglass"
    name: Literal["hourglass"]
    """Chooses this network."""
    stacks: int = Field(2, ge=1)
    """[hourglasses] Hourglasses in a row; the paper's best has 8. Each gives logits for supervision (section 3.2)."""
    channels: int = Field(256, ge=4, multiple_of=4)
    """[channels] Of every residual module (section 3.1)."""
    depth: int = Field(4, ge=1, le=6)
    """[halvings] Inside an hourglass: 4 brings 64x64 down to 4x4."""
    upsampling: Interpolation = "nearest"
    """How maps are enlarged on the way up."""


Side = Annotated[int, Field(ge=1)]
Levels = Annotated[tuple[float, float, float] | None, Field()]


def _module_and_function(text: str) -> str:
    module, _, function = text.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"found '{text}'; it must be module:function, such as mynet.model:build")
    return text


class OutsideConfig(NetworkSection):
    """What the sections of networks that others wrote have."""

    multiple_of: Side = 32
    """[pixels] Images are padded to sides that are multiples of it. 32: what most encoders halve an image to."""
    min_size: Side = 32
    """[pixels] And to sides of at least so many."""
    mean: Levels = None
    """Of red, green and blue, as values of 0 to 1: taken from the image before the network sees it. Absent: those that come
    with its weights, or ImageNet's, 0.485, 0.456, 0.406."""
    std: Levels = None
    """What the rest is divided by. Absent: as with `mean`; ImageNet's are 0.229, 0.224, 0.225."""


class PythonConfig(OutsideConfig):
    """Any `nn.Module`: (N, 3, H, W) -> (N, C, h, w), a dict with `out` or `logits` (and `aux`), or a list that ends with it."""

    network = "python_code.PythonCode"
    addresses = frozenset({"path"})
    name: Literal["python"]
    """Chooses this network."""
    build: Annotated[str, AfterValidator(_module_and_function)]
    """Function or class that makes the network, such as `mynet.model:build`: it is called with `num_classes` and `arguments`.
    The weights that it gives the network are those that training starts from, whatever `weights` says."""
    arguments: dict[str, Any] = Field({})
    """Of `build`, by name."""
    path: Folder | None = None
    """Folder in which the module is looked for; it is hashed whole, and travels with `maskmill submit`. Absent: the module is
    installed on every machine, and its file is hashed."""
    code_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", exclude_if=lambda value: value is None)
    """The code's hash, which training writes: another code is then refused. Absent: whatever is there."""
    backbone: str | None = Field(None, exclude_if=lambda value: value is None)
    """Attribute that holds the encoder, such as `model.encoder`: it learns at optimizer.backbone_lr_factor and can be frozen.
    Absent: `backbone` or `encoder` where the network has one, else all of it is the head."""


class TransformersConfig(OutsideConfig):
    """Networks of Hugging Face's transformers: SegFormer, UPerNet, DPT, BEiT and others; MaskFormer, Mask2Former and OneFormer
    by their semantic combination of queries."""

    network = "hugging_face.HuggingFace"
    addresses = frozenset({"config"})
    name: Literal["transformers"]
    """Chooses this network."""
    config: Folder
    """Folder or URI with the network's config.json, or its name on the hub. Where model.safetensors lies beside it, `weights:
    imagenet` starts from that, without the head where the classes are others; `weights: random` does not."""
    architecture: dict[str, Any] | None = Field(None, exclude_if=lambda value: value is None)
    """What config.json says, which training writes, so that a checkpoint needs the folder no more. Absent: it is read."""


class SmpConfig(OutsideConfig):
    """Networks of segmentation_models_pytorch."""

    network = "smp.Smp"
    name: Literal["smp"]
    """Chooses this network."""
    arch: str = "unet"
    """unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer or dpt."""
    encoder: str = "resnet34"
    """The package's name of it, such as resnet18, mit_b0 or tu-convnext_tiny (timm's)."""
    arguments: dict[str, Any] = Field({})
    """Others of `segmentation_models_pytorch.create_model`, by name, such as {decoder_channels: [64, 32, 16, 8, 4]}."""


class ExportedConfig(NetworkSection):
    """A network in a file: ONNX, torch.export or TorchScript. `maskmill import-model` writes it into a checkpoint, which
    segments; it is not trained."""

    network = "exported.Exported"
    name: Literal["exported"]
    """Chooses this network."""
    form: ExportedForm
    """What kind of file it is. ONNX is data alone; loading one of the others can run code that is in the file."""
    output: str = ""
    """Name of the output that holds the scores; empty where there is one alone."""
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Numbers of the input; `uint8` takes pixels as they are."""
    layout: Layout = "NCHW"
    """Order of the input's dimensions."""
    scores_layout: Layout = "NCHW"
    """Order of the scores' dimensions."""
    scores: Scores = "logits"
    """What the output is: raw scores, probabilities of the classes, or the number of the best class at each pixel."""
    size: Size | None = None
    """[pixels] (height, width) that it takes, no others: larger images are predicted in tiles of it. Absent: any."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """[images] Of a pass, neither more nor fewer. Absent: any."""
    stride: int = Field(1, ge=1)
    """[pixels] Between two scores: they are enlarged by it."""
    multiple_of: Side = 1
    """[pixels] Images are padded to sides that are multiples of it."""
    min_size: Side = 1
    """[pixels] And to sides of at least so many."""


ModelConfig = Annotated[
    ClassifierConfig
    | FcnConfig
    | FcnResNetConfig
    | DeepLabV1Config
    | DeepLabV2Config
    | DeepLabV3Config
    | DeepLabV3PlusConfig
    | LrasppConfig
    | SegNetConfig
    | DeconvNetConfig
    | UNetConfig
    | HourglassConfig
    | PythonConfig
    | TransformersConfig
    | SmpConfig
    | ExportedConfig,
    Field(discriminator="name"),
]

# name -> section of every family, as the union lists them
NETWORK_SECTIONS: dict[str, type[NetworkSection]] = {
    get_args(section.model_fields["name"].annotation)[0]: section for section in get_args(get_args(ModelConfig)[0])
}
