"""`import-weights` finds out from a file which network it belongs to, and asks only for what the file does not say."""

import json

import pytest
import torch
import torchvision

from pipeline import labels, models
from pipeline.config import parse_model
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.classifier import groups
from pipeline.models.identify import import_weights
from tests.command import maskmill


def released(folder, name, classes=21, key=None, **options):
    """torchvision's network with random weights, as its file is released or, below a key, as its references save it."""
    torch.manual_seed(0)
    backbone = {} if name in ("alexnet", "resnet18", "resnet101") else {"weights_backbone": None}
    network = torchvision.models.get_model(name, weights=None, num_classes=classes, **backbone, **options)
    state = network.state_dict()
    torch.save(state if key is None else {key: state}, folder / f"{name}.pth")
    return network, str(folder / f"{name}.pth")


@pytest.mark.slow
def test_the_command_needs_the_file_alone(tmp_path):
    network, file = released(tmp_path, "lraspp_mobilenet_v3_large", key="model")
    done = maskmill("import-weights", file, "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "network: lraspp, 21 classes of voc21" in done.stdout
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = checkpoint.load(str(tmp_path / "out")).model(x)[-1]
        assert torch.allclose(found, network.eval()(x)["out"], atol=1e-5)


@pytest.mark.parametrize("aux", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("fcn_resnet50", {"name": "fcn_resnet", "backbone": "resnet50"}),
        ("deeplabv3_mobilenet_v3_large", {"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16}),
    ],
)
def test_backbone_stride_and_aux_head_come_from_the_file(name, section, aux, tmp_path):
    _, file = released(tmp_path, name, aux_loss=aux)
    done = import_weights(file, {}, None, str(tmp_path / "out"))
    assert done.cfg == parse_model({**section, "aux": aux}, where="test") and done.space.name == "voc21"


@pytest.mark.slow
def test_what_is_given_is_kept_and_what_the_file_lacks_is_told(tmp_path):
    _, file = released(tmp_path, "deeplabv3_resnet101", classes=19, aux_loss=True)
    done = import_weights(file, {"output_stride": 16}, labels.space("cityscapes19"), str(tmp_path / "out"))
    assert (done.cfg.backbone, done.cfg.output_stride, done.cfg.rates) == ("resnet101", 16, (6, 12, 18))
    assert done.unseen == {"output_stride": 16, "rates": [6, 12, 18]}
    described = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert described["label_space"]["name"] == "cityscapes19" and described["info"]["source"] == file


def test_the_released_fcns_stride_and_width_come_from_the_file(tmp_path):
    torch.manual_seed(0)
    own = models.build(parse_model({"name": "fcn", "stride": 16, "fc_channels": 32}, where="test"), 21).state_dict()
    names = {"upscore.transposed.weight": "upscore16.weight"}  # as pytorch-fcn calls them
    state = {names.get(name, name).replace("backbone.", "").replace(".transposed", ""): own[name] for name in own}
    torch.save(state, tmp_path / "fcn16s.pth")
    done = import_weights(str(tmp_path / "fcn16s.pth"), {}, None, str(tmp_path / "out"))
    assert done.cfg == parse_model({"name": "fcn", "stride": 16, "fc_channels": 32}, where="test")
    assert done.unseen == {"at_once": False}


def test_the_classes_are_asked_for_where_they_are_not_vocs(tmp_path):
    _, file = released(tmp_path, "lraspp_mobilenet_v3_large", classes=19)
    with pytest.raises(
        UserError, match=r"--model lraspp with 19 classes; what they mean .* --label-space \(built in .*city"
    ):
        import_weights(file, {}, None, str(tmp_path / "out"))
    with pytest.raises(UserError, match="with 19 classes, the label space 'camvid11' has 11; what they mean"):
        import_weights(file, {"name": "lraspp"}, labels.space("camvid11"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_classifier_of_as_many_classes_is_convolutionalised_and_imagenets_own_is_explained(tmp_path):
    network, file = released(tmp_path, "alexnet", classes=21)
    import_weights(file, {}, None, str(tmp_path / "out"))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        scores = checkpoint.load(str(tmp_path / "out")).model.classify(x)
        assert torch.allclose(scores[..., 0, 0], network.eval()(x), atol=1e-5)
    _, file = released(tmp_path, "resnet18", classes=1000)
    with pytest.raises(
        UserError, match=r"--set backbone=resnet18 with 1000 classes, and a mask holds at most 254; name the outputs"
    ):
        import_weights(file, {}, None, str(tmp_path / "out"))


IMAGENET = {"resnet18": {}, "googlenet": {"transform_input": True, "init_weights": True}, "alexnet": {}}


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in ("googlenet", "alexnet"))]
)
def test_classes_of_an_imagenet_classifier_are_as_probable_as_their_outputs_together(name, tmp_path):
    """At 224x224 torchvision's classifier decides, with its own way of normalising; a larger image has a grid of them."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, **IMAGENET[name]).eval()
    torch.save(network.state_dict(), tmp_path / "classifier.pth")
    classes = {"cat": "281-285", "dog": "151-268+275", "else": "rest"}
    done = import_weights(str(tmp_path / "classifier.pth"), {}, None, str(tmp_path / "out"), classes)
    assert (done.cfg.backbone, done.cfg.outputs, done.space.classes) == (name, 1000, ("cat", "dog", "else"))
    model = checkpoint.load(str(tmp_path / "out")).model
    image = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        probs = network(normalise(image / 255)).softmax(1)
        found = model.classify(model.normalise(image))
        dog = probs[:, [*range(151, 269), 275]].sum(1)
        cat = probs[:, 281:286].sum(1)
        assert torch.allclose(found.softmax(1)[..., 0, 0], torch.stack([cat, dog, 1 - cat - dog], 1), atol=1e-5)
        assert model.classify(torch.zeros(1, 3, 256, 288)).shape == (1, 3, 2, 3)


def test_classes_that_are_no_outputs_of_the_classifier_are_refused():
    for merged, sentence in (
        (["281-1000"], "'281-1000': the classifier's outputs are 0 to 999"),
        (["cat"], "'cat' names no outputs of a classifier; write class=7, class=281-285"),
        (["9-7"], "'9-7' names no outputs"),
        (["281-285", "285"], "output 285 of the classifier is given to two classes"),
        (["0-999", "rest"], "'rest' is for one class, of the outputs that no other has; 0 are left"),
    ):
        with pytest.raises(UserError, match=sentence):
            groups(merged, 1000)


@pytest.mark.slow
def test_a_larger_resnets_file_is_not_imported_as_the_smaller(tmp_path):
    _, file = released(tmp_path, "resnet101", classes=21)
    with pytest.raises(
        UserError, match=r"tensors, conv1.weight the first and fc.bias the last: ImageNet's resnet101\. If"
    ):
        import_weights(file, {}, None, str(tmp_path / "out"))
    with pytest.raises(UserError, match="another network: the classifier resnet101"):
        import_weights(file, {"name": "classifier", "backbone": "resnet50"}, None, str(tmp_path / "out"))


def test_a_file_of_no_network_is_described_in_a_few_lines(tmp_path):
    torch.save({f"layer{n}.weight": torch.zeros(3, 3) for n in range(40)}, tmp_path / "odd.pth")
    with pytest.raises(
        UserError, match=r"40 tensors, layer0.weight the first and layer39.weight the last: no network that"
    ) as e:
        import_weights(str(tmp_path / "odd.pth"), {}, None, str(tmp_path / "out"))
    assert "give --model NAME" in str(e.value)
    with pytest.raises(UserError, match=r"unexpected 40 \(layer0.weight, layer1.weight, layer10.weight, \.\.\.\)") as e:
        import_weights(str(tmp_path / "odd.pth"), {"name": "lraspp"}, None, str(tmp_path / "out"))
    assert len(str(e.value)) < 600
