"""The contract that all networks obey, and their building blocks."""

import warnings
from typing import get_args

import pytest
import torch
from torch import nn

from pipeline import labels, models
from pipeline.config import parse_model
from pipeline.config.models import NETWORK_SECTIONS, DeepLabV3PlusConfig
from pipeline.config.networks import networks
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.backbones import build_backbone
from pipeline.models.layers import SameConv2d, set_output_stride
from pipeline.models.listing import counted, variants
from tests.outside_networks import SEGFORMER, UPERNET

# A new network is one more row: its config, small where its size is free.
SMALL = {"aspp_channels": 16, "low_level_channels": 8, "decoder_channels": 16}
NETWORKS = {
    "classifier alexnet": {"name": "classifier", "backbone": "alexnet", "fc_channels": 32},
    "classifier vgg16": {"name": "classifier", "backbone": "vgg16", "fc_channels": 32},
    "classifier vgg16 valid": {"name": "classifier", "backbone": "vgg16", "padding": "valid", "fc_channels": 32},
    "classifier merged": {"name": "classifier", "backbone": "resnet18", "outputs": 20, "merged": [*"0123456789", "rest"]},
    "classifier googlenet": {"name": "classifier", "backbone": "googlenet"},
    "classifier resnet18": {"name": "classifier", "backbone": "resnet18"},
    "classifier resnet50": {"name": "classifier", "backbone": "resnet50"},
    "fcn alexnet 32": {"name": "fcn", "backbone": "alexnet", "stride": 32, "fc_channels": 32},
    "fcn googlenet 32": {"name": "fcn", "backbone": "googlenet", "stride": 32},
    "fcn vgg16 32": {"name": "fcn", "stride": 32, "fc_channels": 32},
    "fcn vgg16 16": {"name": "fcn", "stride": 16, "fc_channels": 32},
    "fcn vgg16 8": {"name": "fcn", "stride": 8, "fc_channels": 32},
    "fcn vgg16 8 at once": {"name": "fcn", "stride": 8, "fc_channels": 32, "at_once": True},
    "fcn vgg16 8 bilinear": {"name": "fcn", "stride": 8, "fc_channels": 32, "upsampling": "bilinear"},
    "fcn_resnet resnet50": {"name": "fcn_resnet", "backbone": "resnet50"},
    "deeplabv1": {"name": "deeplabv1", "fc_channels": 32},
    "deeplabv1 4x4 multi-scale": {"name": "deeplabv1", "kernel": 4, "multi_scale": True, "fc_channels": 32},
    "deeplabv2 vgg16": {"name": "deeplabv2", "backbone": "vgg16", "fc_channels": 32},
    "deeplabv2 resnet50": {"name": "deeplabv2", "backbone": "resnet50", "scales": [1, 0.75, 0.5]},
    "deeplabv2 released": {"name": "deeplabv2", "backbone": "resnet50", "resnet": "caffe", "scales": [1, 0.75, 0.5]},
    "deeplabv3 resnet50": {"name": "deeplabv3", "backbone": "resnet50"},
    "deeplabv3 multi-grid": {"name": "deeplabv3", "output_stride": 16, "multi_grid": [1, 2, 4], "rates": [6, 12, 18]},
    "deeplabv3 mobilenet": {"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16},
    "lraspp": {"name": "lraspp"},
    **{
        f"deeplabv3plus {backbone} {stride}": {"name": "deeplabv3plus", "backbone": backbone, "output_stride": stride, **SMALL}
        for backbone, stride in (
            ("efficientnet_lite0", 8), ("efficientnet_lite0", 16), ("efficientnet_lite0", 32), ("efficientnet_lite2", 16),
            ("mobilenet_v2", 16), ("mobilenet_v3_large", 16), ("resnet50", 16), ("xception65", 16),
        )
    },
    "deeplabv3plus released": {
        "name": "deeplabv3plus", "backbone": "mobilenet_v2", "decoder": False, "aspp_rates": [], "align_corners": True, **SMALL
    },
    "deeplabv3plus plain": {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "separable": False, **SMALL},
    "deeplabv3plus transposed": {
        "name": "deeplabv3plus", "backbone": "efficientnet_lite0", "upsampling": "transposed", **SMALL
    },
    "deeplabv3plus timm": {"name": "deeplabv3plus", "backbone": "timm/test_efficientnet", **SMALL},
    "unet timm": {"name": "unet", "backbone": "timm/test_convnext", "channels": 8},
    "fcn timm": {"name": "fcn", "backbone": "timm/test_efficientnet", "stride": 8},
    "segnet basic": {"name": "segnet", "variant": "basic"},
    "segnet vgg16": {"name": "segnet"},
    "segnet bilinear": {"name": "segnet", "variant": "basic", "upsampling": "bilinear"},
    "deconvnet": {"name": "deconvnet", "fc_channels": 32},
    "unet same": {"name": "unet", "channels": 8},
    "unet valid": {"name": "unet", "channels": 8, "padding": "valid"},
    "unet shallow valid": {"name": "unet", "channels": 4, "depth": 2, "padding": "valid", "batch_norm": True},
    "hourglass": {"name": "hourglass", "stacks": 2, "channels": 16},
    "python": {"name": "python", "build": "tests.outside_networks:build", "arguments": {"stride": 4}, "multiple_of": 4},
    "transformers segformer": {"name": "transformers", "config": "none", "architecture": SEGFORMER},
    "transformers upernet": {"name": "transformers", "config": "none", "architecture": UPERNET},
    "smp unet": {"name": "smp", "encoder": "resnet18", "arguments": {"decoder_channels": [32, 16, 16, 8, 8]}},
}  # fmt: skip
CLASSES = 11

every_network = pytest.mark.parametrize("values", [pytest.param(v, id=name) for name, v in NETWORKS.items()])


@pytest.fixture
def network(values):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # AlexNet's published kernel of 63
        return models.build(parse_model(values, where="test"), CLASSES)


@pytest.mark.slow
@every_network
def test_logits_have_the_input_size_at_the_smallest_legal_and_an_odd_non_square_one(network):
    network.eval()
    least, step = network.min_size, network.multiple_of
    odd = (least + 3 * step, least + step) if step > 1 else (least + 13, least + 6)
    for height, width in ((least, least), odd):
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, height, width))
        assert logits[-1].shape == (1, CLASSES, height, width)


@every_network
def test_an_illegal_size_is_refused_with_the_next_legal_one(network):
    least, step = network.min_size, network.multiple_of
    wrong = (least + 1, least) if step > 1 else (least - 1, least)
    next_legal = (least + step, least) if step > 1 else (least, least)
    found = f"found {wrong[0]}x{wrong[1]}; the next legal size is {next_legal[0]}x{next_legal[1]}"
    with pytest.raises(ValueError, match=found):
        network(torch.zeros(1, 3, *wrong))


@every_network
def test_each_layer_runs_once_an_image(network):
    """A layer with parameters that runs twice costs twice, and its batch statistics would follow the batch twice."""
    network.eval()
    calls = dict.fromkeys((name for name, m in network.named_modules() if m._parameters or m._buffers), 0)

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    for name in calls:
        network.get_submodule(name).register_forward_hook(count(name))
    with torch.no_grad():
        network(torch.zeros(1, 3, *network.legal_size(32, 32)))
    times = len(getattr(network, "scales", (1,)))  # DeepLab v2 runs its layers on each size of the image
    unused = {name for name in calls if name.startswith("aux_classifier")}  # runs while training alone
    assert {name: n for name, n in calls.items() if n != (0 if name in unused else times)} == {}


@pytest.mark.slow
@every_network
def test_gradients_reach_every_parameter_and_a_checkpoint_keeps_the_logits(network, values, tmp_path):
    network.train()
    generator = torch.Generator().manual_seed(0)
    unreached = {name for name, p in network.named_parameters() if p.requires_grad}
    for _ in range(5):  # one input may leave a ReLU of a narrow layer without a positive value
        x = torch.randn(2, 3, *network.legal_size(64, 64), generator=generator)
        network.zero_grad()
        sum(logits.square().mean() for logits in network(x)).backward()
        unreached -= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if not unreached:
            break
    assert unreached == set()

    checkpoint.save(str(tmp_path), network, parse_model(values, where="test"), labels.space("camvid11"), {})
    network.eval()
    again = checkpoint.load(str(tmp_path), "installed" if values["name"] == "python" else None).model
    with torch.no_grad():
        assert torch.equal(network(x)[-1], again(x)[-1])


@every_network
def test_the_coarse_logits_enlarged_are_the_prediction(network):
    network.eval()
    if not network.enlarges:
        pytest.skip("does not end by enlarging")
    size = network.legal_size(64, 96)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        coarse, logits = network.coarse(x), network(x)[-1]
    assert coarse.shape[-1] < size[1]
    assert torch.allclose(nn.functional.interpolate(coarse, size, mode="bilinear"), logits, atol=1e-5)


@pytest.mark.slow
@every_network
def test_bf16_agrees_with_fp32(network):
    network.eval()
    x = torch.randn(1, 3, *network.legal_size(64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = network(x)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x)[-1].float()
    assert (exact - rounded).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.slow
@every_network
def test_a_network_can_be_exported(network):
    network.eval()
    x = torch.randn(1, 3, *network.legal_size(64, 64), generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(network, (x,)).module()
    with torch.no_grad():
        assert torch.allclose(exported(x)[-1], network(x)[-1], atol=1e-5)


@pytest.mark.parametrize("backbone", list(get_args(DeepLabV3PlusConfig.model_fields["backbone"].annotation)))
def test_features_come_at_stride_4_and_the_output_stride(backbone):
    for stride in (8, 16, 32):
        encoder = build_backbone(backbone, stride).eval()
        maps = encoder(torch.zeros(1, 3, 64, 96))
        assert maps[0].shape == (1, encoder.channels[0], 16, 24)
        assert maps[-1].shape == (1, encoder.channels[-1], 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    "backbone", ["efficientnet_lite0", "efficientnet_lite2", "mobilenet_v2", "mobilenet_v3_large", "resnet50"]
)
def test_the_decoder_takes_maps_at_the_strides_that_the_config_names(backbone):
    cfg = {
        "name": "deeplabv3plus",
        "backbone": backbone,
        "aspp_channels": 16,
        "decoder_channels": 16,
        "low_level_channels": 8,
    }
    for stride, strides in ((16, (8, 4)), (32, (16, 8, 4, 2)), (16, (4,))):
        network = models.build(
            parse_model({**cfg, "output_stride": stride, "skip_strides": strides}, where="test"), 3
        ).eval()
        *maps, _ = network.backbone(torch.zeros(1, 3, 64, 96))
        assert [64 // one.shape[-2] for one in maps] == sorted(strides)
        assert tuple(one.shape[1] for one in maps) == tuple(network.backbone.channels[:-1])
        seen: list[torch.Tensor] = []
        for step in [*(step.low_level for step in network.steps), network.low_level]:
            step.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        assert network.coarse(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64 // strides[-1], 96 // strides[-1])
        assert tuple(64 // one.shape[-2] for one in seen) == strides


def test_the_second_head_of_deeplab_v3plus_is_there_while_training_alone():
    cfg = {"name": "deeplabv3plus", "aspp_channels": 16, "decoder_channels": 16, "low_level_channels": 8}
    network = models.build(parse_model({**cfg, "aux": True}, where="test"), 3)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    aux, logits = network.train()(x)
    assert aux.shape == logits.shape == (2, 3, 64, 96)
    aux.sum().backward()
    assert network.pyramid.project[0].weight.grad.any() and network.classifier.weight.grad is None
    without = models.build(parse_model(cfg, where="test"), 3).eval()
    without.load_state_dict({name: value for name, value in network.state_dict().items() if "aux" not in name})
    with torch.no_grad():
        assert torch.equal(network.eval()(x)[0], without(x)[0])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"skip_strides": [4, 8]}, r"found \[4, 8\] with output_stride 16; give strides below"),
        ({"skip_strides": [16, 4]}, r"found \[16, 4\] with output_stride 16"),
        ({"skip_strides": [8, 4], "backbone": "xception65"}, r"found \[8, 4\] with backbone xception65"),
        ({"skip_strides": [8, 4], "align_corners": True}, r"found \[8, 4\] with align_corners"),
        ({"skip_strides": [8, 4], "decoder": False}, r"found \[8, 4\] with decoder: false"),
    ],
)
def test_skips_that_the_network_cannot_have_are_refused(values, words):
    with torch.device("meta"), pytest.raises(UserError, match=r"model\.skip_strides: " + words):
        models.build(parse_model({"name": "deeplabv3plus", **values}, where="test"), 3)


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({}, (12, 24, 36)),
        ({"output_stride": 16}, (6, 12, 18)),
        ({"output_stride": 16, "rates": [12, 24, 36]}, (12, 24, 36)),  # as checkpoints from before store them
        ({"backbone": "mobilenet_v3_large", "output_stride": 16}, (12, 24, 36)),  # torchvision's
    ],
)
def test_the_pyramid_of_deeplab_v3_spans_the_same_part_of_the_image_at_each_stride(values, rates):
    """arXiv:1706.05587, section 3.3: (6, 12, 18) at output stride 16, doubled at 8. The config says what is used."""
    cfg = parse_model({"name": "deeplabv3", **values}, where="test")
    with torch.device("meta"):
        network = models.build(cfg, 3)
    kernels = [m for m in network.classifier.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert tuple(conv.dilation[0] for conv in kernels) == rates
    assert tuple(cfg.model_dump(mode="json")["rates"]) == rates


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


@pytest.mark.slow
def test_the_list_of_networks_is_counted_from_the_code_and_names_every_one():
    rows = list(counted())
    assert networks() == rows, "run: python -m tests.network_sizes"
    outside = {row.name for row in rows if row.parameters is None}  # of any size
    assert outside == {"python", "transformers", "smp", "exported"}
    assert len(rows) == len(variants()) + len(outside)
    assert {row.name for row in rows} == set(NETWORK_SECTIONS)
    assert all(row.parameters > 0 and row.gflops > 0 for row in rows if row.name not in outside)


def test_a_wrong_network_is_explained():
    with pytest.raises(ValueError, match=r"test: name: found 'resnet'; choose one of 'classifier', 'fcn'"):
        parse_model({"name": "resnet"}, where="test")
    with pytest.raises(ValueError, match=r"test: stride: found 4; choose one of 32, 16, 8"):
        parse_model({"name": "fcn", "stride": 4}, where="test")
    with pytest.raises(ValueError, match=r"widths: unknown key; known keys here: name, backbone, channels, depth"):
        parse_model({"name": "unet", "widths": 3}, where="test")


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"name": "fcn", "backbone": "alexnet", "stride": 16}, "stride 16 needs the skips of backbone vgg16"),
        ({"name": "deeplabv3", "backbone": "mobilenet_v3_large"}, "has output_stride 16 and no multi_grid"),
        (
            {"name": "deeplabv3plus", "align_corners": True, "upsampling": "nearest"},
            "is of upsampling bilinear, found nearest",
        ),
        ({"name": "segnet", "upsampling": "transposed_fixed", "variant": "basic"}, None),
        ({"name": "unet", "upsampling": "transposed_fixed"}, "keeps channels, but here 1024 become 512"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, sentence):
    cfg = parse_model(values, where="test")
    with torch.device("meta"):
        if sentence is None:
            models.build(cfg, 3)
        else:
            with pytest.raises(ValueError, match=sentence):
                models.build(cfg, 3)
