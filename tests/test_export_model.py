"""An exported network gives the checkpoint's logits from pixels, in batches of any size."""

import importlib.util
import io

import numpy as np
import pytest
import torch

from pipeline import labels, models
from pipeline.config import ImageConfig, parse_model
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models import export as export_model

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def expected_of(uri, image):
    model = checkpoint.load(uri).model
    with torch.no_grad():
        return model(model.normalise(image))[-1]


@pytest.mark.slow
def test_torch_export_gives_the_logits_of_the_checkpoint(tiny_checkpoint, tmp_path):
    out = str(tmp_path / "model.pt2")
    done = export_model.export(tiny_checkpoint, "torch_export", out, 64, 96)
    assert done.difference <= export_model.TOLERANCE
    image = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    program = torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes())).module()
    assert torch.allclose(program(image), expected_of(tiny_checkpoint, image), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
def test_onnx_gives_the_logits_of_the_checkpoint(tiny_checkpoint, tmp_path):
    import onnxruntime

    out = tmp_path / "model.onnx"
    export_model.export(tiny_checkpoint, "onnx", str(out), 64, 96)
    image = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    (found,) = onnxruntime.InferenceSession(out.read_bytes()).run(None, {"image": image.numpy()})
    assert np.allclose(found, expected_of(tiny_checkpoint, image).numpy(), atol=1e-3)


def test_onnx_that_is_not_installed_is_told(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format onnx needs .*onnx.* pip install 'maskmill\[export\]'"):
        export_model.export(tiny_checkpoint, "onnx", str(tmp_path / "x"), 64, 64)


def test_a_size_that_the_network_does_not_take_is_told(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="the next legal size is 64x112"):
        export_model.export(tiny_checkpoint, "torch_export", str(tmp_path / "x"), 64, 100)


@pytest.mark.slow
def test_logits_that_differ_are_refused(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_model, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="nothing was written"):
        export_model.export(tiny_checkpoint, "torch_export", str(tmp_path / "x"), 64, 64)
    assert not (tmp_path / "x").exists()


def test_the_input_of_a_network_for_bands_is_told(tmp_path):
    cfg = parse_model({"name": "unet", "channels": 4, "depth": 2}, where="test")
    image = ImageConfig(bands=(1, 2, 3, 4), range=(0, 4095))
    checkpoint.save(str(tmp_path / "b"), models.build(cfg, 11, bands=4), cfg, labels.space("camvid11"), {}, image)
    done = export_model.export(str(tmp_path / "b"), "torch_export", str(tmp_path / "b.pt2"), 32, 32)
    assert done.takes == "float32 (N, 4, 32, 32)"


@pytest.mark.parametrize("form", ["torch_export", "onnx"])
def test_a_network_that_cannot_be_exported_is_told(tmp_path, form):
    lines = "from torch import nn", "class Net(nn.Conv2d):", "    def __init__(self, num_classes):"
    lines += (
        "        super().__init__(3, num_classes, 1)",
        "    def forward(self, x):",
        "        y = super().forward(x)",
    )
    lines += ("        return y * 2 if y.sum() > 0 else y",)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/branching.py").write_text("\n".join(lines))
    cfg = parse_model({"name": "python", "build": "branching:Net", "path": str(tmp_path / "code")}, where="test")
    space = labels.space("camvid11")
    checkpoint.save(str(tmp_path / "net"), models.build(cfg, space.num_classes), cfg, space, {})
    with pytest.raises(UserError, match=rf"its network does not export to {form}: .*; nothing was written"):
        export_model.export(str(tmp_path / "net"), form, str(tmp_path / "out"), 64, 96, str(tmp_path / "code"))
