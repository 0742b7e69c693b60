"""Encoders of timm with our decoders: their feature maps and weights equal timm's, and what does not fit is reported."""

import sys

import pytest
import safetensors.torch
import timm
import torch

from pipeline import labels, models
from pipeline.config import parse_model
from pipeline.models import checkpoint, published_file
from pipeline.models.backbones.timm_encoder import TimmEncoder

CLASSES = 11


def built(values, pretrained=False):
    return models.build(parse_model({"name": "deeplabv3plus", **values}, where="test"), CLASSES, pretrained)


def noise():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("output_stride", [8, 32])
def test_the_maps_are_those_of_timm_at_stride_4_and_the_output_stride(name, output_stride):
    encoder = TimmEncoder(f"timm/{name}", (4, output_stride), output_stride).eval()
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    with torch.no_grad():
        fine, coarse = encoder(noise())
        maps = theirs(noise())
    at_stride_4 = theirs.feature_info.reduction().index(4)
    assert torch.equal(fine, maps[at_stride_4])
    assert torch.equal(coarse, maps[-1])
    assert coarse.shape == (2, encoder.channels[-1], 64 // output_stride, 96 // output_stride)


@pytest.mark.parametrize("name", ["test_mambaout", "swin_tiny_patch4_window7_224"])
def test_maps_whose_channels_come_last_are_turned(name):
    """Swin takes other sizes than that of its training only where it is told to."""
    options = {"strict_img_size": False} if name.startswith("swin") else {}
    encoder = TimmEncoder(f"timm/{name}", (4, 32)).eval()
    theirs = timm.create_model(name, features_only=True, **options).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    with torch.no_grad():
        assert torch.equal(encoder(noise())[-1], theirs(noise())[-1].permute(0, 3, 1, 2))


def test_a_file_of_timm_is_what_the_encoder_starts_from_and_its_mean_and_std_are_kept(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("test_convnext")
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(whole.state_dict(), file)
    published, _ = published_file.read(str(file))
    network = built({"backbone": "timm/test_convnext"}, published)
    with torch.no_grad():
        expected = whole.eval().forward_intermediates(noise(), output_fmt="NCHW", intermediates_only=True)[0]
        assert torch.allclose(network.backbone.eval()(noise())[0], expected, atol=1e-5)
    assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"the file is none of timm's for test_resnet .*classifier included"):
        built({"backbone": "timm/test_resnet"}, published)


def test_weights_that_the_hub_does_not_give_are_explained(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"imagenet of timm/test_resnet come from the Hugging Face hub, which failed .*file"
    ):
        built({"backbone": "timm/test_resnet"}, True)


def test_a_checkpoint_builds_its_encoder_again(tmp_path):
    values = {"name": "unet", "backbone": "timm/test_resnet", "channels": 4}
    cfg = parse_model(values, where="test")
    assert (cfg.depth, parse_model({"name": "unet"}, where="test").depth) == (5, 4)
    network = models.build(cfg, CLASSES).eval()
    checkpoint.save(str(tmp_path), network, cfg, labels.space("camvid11"), {})
    with torch.no_grad():
        assert torch.equal(checkpoint.load(str(tmp_path)).model(noise())[-1], network(noise())[-1])


def test_the_deepest_map_of_a_shallow_unet_is_the_last_that_is_computed():
    cfg = parse_model({"name": "unet", "backbone": "timm/test_resnet", "channels": 4, "depth": 3}, where="test")
    network = models.build(cfg, CLASSES)
    assert network.multiple_of == 8
    assert not any("layer3" in name or "layer4" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"backbone": "resnet34"},
            r"backbone: found 'resnet34'; choose one of .*xception65, or an encoder of timm as timm/NAME",
        ),
        ({"name": "unet", "backbone": "resnet34"}, r"found 'resnet34'; it must be timm/NAME, such as timm/resnet34"),
        (
            {"backbone": "timm/nope"},
            r"backbone timm/nope: timm \S+ makes no encoder of that name \(RuntimeError: Unknown model",
        ),
        (
            {"backbone": "timm/pvt_v2_b0"},
            r"timm makes it at output stride 32 alone; set model.output_stride: 32, found 16",
        ),
        (
            {"backbone": "timm/test_vit", "output_stride": 32},
            r"maps have strides 16, 16.* takes 4, 32 of it, of which 4 is",
        ),
        (
            {"name": "unet", "backbone": "timm/test_resnet", "padding": "valid"},
            r"pads its maps with zeros; set padding: same",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(values)


def test_the_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs the package timm.* pip install 'maskmill\[timm\]'"):
        built({"backbone": "timm/test_resnet"})
