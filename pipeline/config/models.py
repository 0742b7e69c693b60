"""One config section per network family, from which its class in pipeline/models/ is built. Defaults are those of the papers.

The sections are here and not beside their classes so that reading a config does not import torch.
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
TIMM = "timm/"  # prefix of a backbone's name that chooses an encoder of timm
Channels = Annotated[int, Field(ge=1)]
Rates = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class NetworkSection(Section):
    """Base of the sections of all families."""

    network: ClassVar[str]  # module and class in pipeline/models/
    addresses: ClassVar[frozenset[str]] = (
        frozenset()
    )  # keys that only say where something is, and so are not part of what a run writes


def _timms(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"{TIMM}[\w.-]+", value) is not None


def _or_timm(names: Any) -> WrapValidator:
    """Accept the names of a Literal and encoders of timm."""

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
    """An image classifier applied at every position: fully-connected layers as convolutions (arXiv:1411.4038, 3.1)."""

    network = "classifier.Classifier"
    name: Literal["classifier"]
    """Chooses this network."""
    backbone: ClassifierName = "vgg16"
    """The classifier whose layers are used."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros; with `valid` the scores equal those of a sliding window."""
    dropout: Share = 0.5
    """Share of the head's features that is dropped at each training step."""
    fc_channels: Channels = 4096
    """[channels] Channels of fc6 and fc7; AlexNet and VGG16 only."""
    outputs: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)
    """Number of outputs of the last layer, if several of them make up a class (`merged`). Absent: one per class."""
    merged: tuple[str, ...] | None = added_later(None)
    """For each class its outputs, counted from 0, such as `281-285` or `7+9`; `rest` is every output of no other class. The
    probability of a class is the sum over its outputs. `import-weights --classes` sets it."""


class FcnConfig(NetworkSection):
    """FCN-32s, -16s, -8s (arXiv:1411.4038)."""

    network = "fcn.Fcn"
    name: Literal["fcn"]
    """Chooses this network."""
    backbone: Annotated[FcnBackboneName, _or_timm(FcnBackboneName)] = "vgg16"
    """The encoder: one of the paper's, or one of timm's, such as timm/resnet34, which has neither fc6 nor fc7."""
    stride: Literal[32, 16, 8] = 8
    """[pixels] Stride of the finest scores that are used. 16 and 8 are not available for AlexNet and GoogLeNet."""
    upsampling: Interpolation = "transposed"
    """How scores are enlarged at each step. `transposed` starts as bilinear interpolation and is trained, like the paper's
    inner steps; `transposed_fixed` stays bilinear, like all steps of the released networks."""
    last_upsampling: Interpolation | None = added_later(None)
    """How the last step enlarges. Absent: as `upsampling`. The paper uses `transposed_fixed` (section 4.3)."""
    at_once: bool = False
    """Train in one stage: pool4 and pool3 are scaled by 0.01 and 0.0001, as in the release."""
    fc_channels: Channels = 4096
    """[channels] Channels of fc6 and fc7; AlexNet and VGG16 only."""
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
    """[taps] Kernel size of fc6: 3 is LargeFOV."""
    rate: int = Field(default_factory=lambda before: {7: 4, 4: 8, 3: 12}[before["kernel"]], ge=1)
    """[pixels] Dilation of fc6. Absent: the value of table 2, which is 12 for kernel 3, 8 for kernel 4 (DeepLab-CRF-4x4;
    DeepLab-CRF with its smaller field has 4) and 4 for kernel 7."""
    fc_channels: Channels = Field(default_factory=lambda before: 1024 if before["kernel"] == 3 else 4096)
    """[channels] Channels of fc6 and fc7. Absent: 1024 for kernel 3, VGG16's 4096 for 7 and 4."""
    multi_scale: bool = added_later(False)
    """Add features of the image and of the first four poolings to those of fc7 (MSc). The paper trains only these layers,
    starting from a network without them: use `start_from` and `freeze_all_but_head`."""
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
    """Variant of the ResNet: torchvision's, which fits its ImageNet weights, or that of the released network (`import-weights`
    sets it), which takes images of any size. ResNets only."""
    rates: Rates = (6, 12, 18, 24)
    """[pixels] Dilations of the branches: the default is ASPP-L; ASPP-S is 2, 4, 8, 12 (figure 7)."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=2)], ...], Field(min_length=1)] = (1.0,)
    """Factors by which the input is resized; the network runs on each size with shared weights. The paper uses 1, 0.75, 0.5."""
    fc_channels: Channels = 1024
    """[channels] Channels of fc6 and fc7; VGG16 only."""
    dropout: Share = 0.5
    """Share of the features that is dropped at each training step; VGG16 only."""


def deeplabv3_rates(backbone: str, output_stride: int) -> tuple[int, ...]:
    """Return the pyramid's rates if a config sets none: (6, 12, 18) at output stride 16, twice as much at 8.

    torchvision's network on MobileNetV3 has (12, 24, 36) at 16, and its published weights were trained with these.
    """
    doubled = output_stride == 8 or backbone == "mobilenet_v3_large"
    return (12, 24, 36) if doubled else (6, 12, 18)


class DeepLabV3Config(NetworkSection):
    """DeepLabv3 (arXiv:1706.05587). The defaults at output stride 8 and on MobileNetV3 give torchvision's networks."""

    network = "deeplab_v3.DeepLabV3"
    name: Literal["deeplabv3"]
    """Chooses this network."""
    backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large"] = "resnet50"
    """The encoder."""
    output_stride: Literal[8, 16] = 8
    """[pixels] Stride of the encoder's last map: 8 is finer and slower. MobileNetV3 needs 16."""
    multi_grid: Annotated[tuple[int, int, int], Field()] | None = None
    """Relative rates of the three blocks of the last stage; the paper's best is 1, 2, 4. Absent: torchvision's 1, 1, 1 with the
    first block at the rate of the previous stage."""
    rates: Rates = Field(default_factory=lambda before: deeplabv3_rates(before["backbone"], before["output_stride"]))
    """[pixels] Dilations of the branches. Absent: 12, 24, 36 at output stride 8 and 6, 12, 18 at 16 (section 3.3); for
    MobileNetV3 torchvision's 12, 24, 36 at 16."""
    aux: bool = True
    """Add a second head on an earlier map, for deep supervision; torchvision has it, the paper does not."""


class DeepLabV3PlusConfig(NetworkSection):
    """DeepLabv3+ (arXiv:1802.02611): atrous pyramid and decoder. Without the decoder it is DeepLabv3, as used on MobileNetV2
    (arXiv:1801.04381, section 6.3)."""

    network = "deeplab_v3plus.DeepLabV3Plus"
    name: Literal["deeplabv3plus"]
    """Chooses this network."""
    backbone: Annotated[BackboneName, _or_timm(BackboneName)] = "efficientnet_lite0"
    """The encoder; efficientnet_lite0 is the lightest, resnet101 and xception65 are the paper's. timm/NAME chooses any encoder
    of timm with maps at stride 4 and at output_stride, such as timm/convnext_tiny (pip install 'maskmill[timm]')."""
    output_stride: Literal[8, 16, 32] = 16
    """[pixels] Stride of the encoder's last map: 8 is finest and slowest."""
    aspp_channels: int = Field(256, ge=8)
    """[channels] Channels of the pyramid; 256 in the paper."""
    aspp_rates: tuple[Annotated[int, Field(ge=1)], ...] = (6, 12, 18)
    """[pixels] Dilations of the branches at output stride 16; doubled at 8, halved at 32. []: only a 1x1 convolution and the
    image pooling, as in the release for MobileNetV2."""
    decoder: bool = added_later(True)
    """Add detail from finer maps; without it the logits come from the pyramid, at the output stride."""
    skip_strides: Annotated[tuple[Literal[16, 8, 4, 2], ...], Field(min_length=1)] = added_later((4,))
    """[pixels] Strides of the backbone's maps that the decoder adds, coarsest first; the logits have the last stride. The paper
    uses [4], Panoptic-DeepLab [8, 4] (arXiv:1911.10194, section 3.2). [16, 8, 4] with output_stride 32 costs less per view than
    [4] with 16; a final 2 takes 1.7 times as long. xception65 allows only [4]."""
    low_level_channels: int = Field(48, ge=8)
    """[channels] Channels to which the decoder reduces each of these maps."""
    decoder_channels: int = Field(256, ge=8)
    """[channels] Channels of the decoder, half as many at stride 2; 256 in the paper."""
    aux: bool = added_later(False)
    """Train a second head on the pyramid's features, for deep supervision (`loss.aux_weight`); prediction does not run it."""
    separable: bool = True
    """Use depthwise separable convolutions in pyramid and decoder, section 3.2."""
    dropout: Share = 0.1
    """Share of the pyramid's features that is dropped at each training step."""
    upsampling: Interpolation = "bilinear"
    """How the pyramid and the logits are enlarged."""
    align_corners: bool = added_later(False)
    """Enlarge as the TensorFlow releases do (`import-weights` sets it): sides are multiples of the output stride plus 1, and
    corner pixels coincide with corner scores. Only with `upsampling: bilinear`."""


class LrasppConfig(NetworkSection):
    """Lite R-ASPP on MobileNetV3 (arXiv:1905.02244)."""

    network = "lraspp.Lraspp"
    name: Literal["lraspp"]
    """Chooses this network."""
    inter_channels: Channels = 128
    """[channels] Channels of the gated branch."""


class SegNetConfig(NetworkSection):
    """SegNet and SegNet-Basic (arXiv:1511.00561)."""

    network = "segnet.SegNet"
    name: Literal["segnet"]
    """Chooses this network."""
    variant: Literal["vgg16", "basic"] = "vgg16"
    """`vgg16` is SegNet, `basic` the small SegNet-Basic."""
    upsampling: UpsamplingName = "max_unpooling"
    """How the decoder enlarges its maps; `bilinear` is the paper's Bilinear-Interpolation variant."""


class DeconvNetConfig(NetworkSection):
    """DeconvNet (arXiv:1505.04366)."""

    network = "deconvnet.DeconvNet"
    name: Literal["deconvnet"]
    """Chooses this network."""
    upsampling: UpsamplingName = "max_unpooling"
    """How the decoder enlarges its maps."""
    fc_channels: Channels = 4096
    """[channels] Channels of fc6 and fc7."""


class UNetConfig(NetworkSection):
    """U-Net (arXiv:1505.04597)."""

    network = "unet.UNet"
    name: Literal["unet"]
    """Chooses this network."""
    backbone: Annotated[str, AfterValidator(_timms_alone)] | None = added_later(None)
    """An encoder of timm, such as timm/resnet34, whose maps are the skip connections. Absent: the paper's encoder."""
    channels: Channels = 64
    """[channels] Channels of the first stage; doubled at each pooling. With `backbone`, this concerns only the decoder."""
    depth: int = Field(default_factory=lambda before: 5 if before.get("backbone") else 4, ge=1, le=6)
    """[poolings] How often the encoder halves the image. Absent: the paper's 4; with `backbone` 5, the depth of most."""
    padding: Literal["same", "valid"] = "same"
    """`same` pads with zeros; the paper uses `valid`."""
    batch_norm: bool = False
    """Add batch normalisation after each convolution."""
    upsampling: Interpolation = "transposed"
    """How the decoder enlarges its maps; `transposed` is the paper's "up-convolution", with a 2x2 kernel."""


class HourglassConfig(NetworkSection):
    """Stacked hourglass (arXiv:1603.06937)."""

    network = "hourglass.Hourglass"
    name: Literal["hourglass"]
    """Chooses this network."""
    stacks: int = Field(2, ge=1)
    """[hourglasses] Hourglasses in a row; the paper's best has 8. Each gives logits for supervision (section 3.2)."""
    channels: int = Field(256, ge=4, multiple_of=4)
    """[channels] Channels of every residual module (section 3.1)."""
    depth: int = Field(4, ge=1, le=6)
    """[halvings] How often an hourglass halves its input: 4 reduces 64x64 to 4x4."""
    upsampling: Interpolation = "nearest"
    """How the decoder enlarges its maps."""


Side = Annotated[int, Field(ge=1)]
Levels = Annotated[tuple[float, float, float] | None, Field()]


def _module_and_function(text: str) -> str:
    module, _, function = text.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"found '{text}'; it must be module:function, such as mynet.model:build")
    return text


class OutsideConfig(NetworkSection):
    """Base of the sections for networks from other sources."""

    multiple_of: Side = 32
    """[pixels] Images are padded so that their sides are multiples of this. 32 is the stride of most encoders."""
    min_size: Side = 32
    """[pixels] Images are padded so that their sides are at least this long."""
    mean: Levels = None
    """Mean of red, green and blue, on a scale of 0 to 1, which is subtracted from the image. Absent: the mean that comes with
    the network's weights, or ImageNet's, 0.485, 0.456, 0.406."""
    std: Levels = None
    """Standard deviation by which the result is divided. Absent: as for `mean`; ImageNet's is 0.229, 0.224, 0.225."""


class PythonConfig(OutsideConfig):
    """Any `nn.Module`: (N, 3, H, W) -> logits (N, C, h, w), a dict with `out` or `logits` (and `aux`), or a list that ends
    with the logits."""

    network = "python_code.PythonCode"
    addresses = frozenset({"path"})
    name: Literal["python"]
    """Chooses this network."""
    build: Annotated[str, AfterValidator(_module_and_function)]
    """Function or class that makes the network, such as `mynet.model:build`. It is called with `num_classes` and `arguments`.
    Training starts from the weights that it sets, whatever `weights` says."""
    arguments: dict[str, Any] = Field({})
    """Keyword arguments of `build`."""
    path: Folder | None = None
    """Folder that contains the module. It is hashed as a whole, and `maskmill submit` uploads it. Absent: the module is
    installed on every machine, and its file is hashed."""
    code_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", exclude_if=lambda value: value is None)
    """Hash of the code, set by training; other code is then refused. Absent: any code is accepted."""
    backbone: str | None = Field(None, exclude_if=lambda value: value is None)
    """Attribute that holds the encoder, such as `model.encoder`. The encoder learns at optimizer.backbone_lr_factor and can be
    frozen. Absent: `backbone` or `encoder` if the network has one of them, else the whole network is the head."""


class TransformersConfig(OutsideConfig):
    """Networks of Hugging Face's transformers: SegFormer, UPerNet, DPT, BEiT and others; MaskFormer, Mask2Former and OneFormer
    with their queries combined into semantic scores."""

    network = "hugging_face.HuggingFace"
    addresses = frozenset({"config"})
    name: Literal["transformers"]
    """Chooses this network."""
    config: Folder
    """Folder or URI with the network's config.json, or its name on the hub. If model.safetensors is beside it, `weights:
    imagenet` starts from that file, without the head if the classes differ; `weights: random` does not use it."""
    architecture: dict[str, Any] | None = Field(None, exclude_if=lambda value: value is None)
    """Contents of config.json, set by training so that a checkpoint no longer needs the folder. Absent: the file is read."""


class SmpConfig(OutsideConfig):
    """Networks of segmentation_models_pytorch."""

    network = "smp.Smp"
    name: Literal["smp"]
    """Chooses this network."""
    arch: str = "unet"
    """unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer or dpt."""
    encoder: str = "resnet34"
    """The package's name of the encoder, such as resnet18, mit_b0 or tu-convnext_tiny (timm's)."""
    arguments: dict[str, Any] = Field({})
    """Keyword arguments of `segmentation_models_pytorch.create_model`, such as {decoder_channels: [64, 32, 16, 8, 4]}."""


class ExportedConfig(NetworkSection):
    """A network in a file: ONNX, torch.export or TorchScript. `maskmill import-model` turns it into a checkpoint, which can
    segment but not be trained."""

    network = "exported.Exported"
    name: Literal["exported"]
    """Chooses this network."""
    form: ExportedForm
    """Format of the file. ONNX is only data; loading one of the others can run code that is in the file."""
    output: str = ""
    """Name of the output that holds the scores; empty if there is only one output."""
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Data type of the input; `uint8` gets the pixels unchanged."""
    layout: Layout = "NCHW"
    """Order of the input's dimensions."""
    scores_layout: Layout = "NCHW"
    """Order of the scores' dimensions."""
    scores: Scores = "logits"
    """What the output is: raw scores, class probabilities, or the id of the best class at each pixel."""
    size: Size | None = None
    """[pixels] The only (height, width) that the network accepts; images are predicted in tiles of it. Absent: any size."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """[images] The only batch size that the network accepts. Absent: any."""
    stride: int = Field(1, ge=1)
    """[pixels] Stride of the scores, by which they are enlarged."""
    multiple_of: Side = 1
    """[pixels] Images are padded so that their sides are multiples of this."""
    min_size: Side = 1
    """[pixels] Images are padded so that their sides are at least this long."""


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
