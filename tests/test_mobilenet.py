"""MobileNetV3 equals torchvision's to the last bit, without torchvision, which would be a fifth of a small network's memory."""

import subprocess
import sys

import pytest
import torch
import torchvision

from pipeline.config import parse_model
from pipeline.models import build
from pipeline.models.backbones.mobilenet import MobileNetV3Large
from pipeline.models.layers import set_output_stride


def with_statistics(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_features_are_torchvisions_at_every_output_stride(output_stride):
    theirs = with_statistics(torchvision.models.mobilenet_v3_large(weights=None).features)
    set_output_stride(theirs, output_stride)
    ours = MobileNetV3Large((16,), output_stride).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(x)[-1], theirs(x))


def test_lraspp_is_torchvisions():
    options = {"weights": None, "weights_backbone": None, "num_classes": 5}
    theirs = with_statistics(torchvision.models.segmentation.lraspp_mobilenet_v3_large(**options))
    ours = build(parse_model({"name": "lraspp"}, where="test"), 5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(ours(x)[-1], theirs(x)["out"])


def test_a_process_that_predicts_with_lraspp_loads_neither_torchvision_nor_the_compiler_of_torch():
    program = """
import sys
from pipeline.config import parse_model
from pipeline.models import build
import pipeline.segment.actor
build(parse_model({"name": "lraspp"}, where="test"), 5)
print([name for name in ("torchvision", "torch._dynamo", "sympy", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
