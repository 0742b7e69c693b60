"""Published architectures against known facts: classifiers as dense predictors, FCN's offsets, atrous identities, sizes."""

import pytest
import torch
import torchvision
from torch import nn

from pipeline import models
from pipeline.config import PredictConfig, parse_model
from pipeline.models.backbones import build_backbone
from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.vgg import Vgg16
from pipeline.models.base import place_on_pixels
from pipeline.models.classifier import convolutionalise
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.weights import start_from
from pipeline.predict import Predictor, shift_and_stitch, slide_window
from pipeline.predict.modes import sub_windows

CLASSIFIERS = ("alexnet", "vgg16", "googlenet", "resnet18", "resnet50")


def build(num_classes=7, **values):
    torch.manual_seed(0)
    return models.build(parse_model(values, where="test"), num_classes).eval()


def randomise_norms(network):
    """Batch norms that do something: fresh ones are the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


# --- classifiers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_convolutionalised_classifier_gives_the_classifiers_logits(name):
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    classifier = randomise_norms(torchvision.models.get_model(name, weights=None, num_classes=7, **options)).eval()
    network = build(name="classifier", backbone=name)
    network.load_state_dict(convolutionalise(classifier.state_dict(), network))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        scores, logits = network.classify(x), classifier(x)
    assert scores.shape == (2, 7, 1, 1)
    assert torch.allclose(scores[..., 0, 0], logits, atol=1e-4)
    assert logits.std() > 0.01  # the weights say something


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_without_padding_its_scores_equal_those_of_a_slid_window(name):
    network = randomise_norms(build(name="classifier", backbone=name, padding="valid", fc_channels=16))
    x = torch.randn(1, 3, 70, 96)
    with torch.no_grad():
        whole, slid = network(x)[-1], slide_window(network, x)
        assert network.scores(x).shape[-2:] == (2, 3)
    assert torch.allclose(whole, slid, atol=1e-4 * float(whole.abs().max()))
    assert whole.std() > 0


def test_an_unpadded_torchvision_classifier_slid_by_hand_gives_the_same_scores():
    """The window's classifier is torchvision's own module, not ours: AlexNet, its paddings set to zero."""
    torch.manual_seed(0)
    classifier = torchvision.models.alexnet(weights=None, num_classes=5).eval()
    network = build(5, name="classifier", backbone="alexnet", padding="valid")
    network.load_state_dict(convolutionalise(classifier.state_dict(), network))
    for layer in classifier.features:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    x = torch.randn(1, 3, 355 + 32, 355 + 64)
    with torch.no_grad():
        scores = network.classify(x)
        for row in range(2):
            for column in range(3):
                window = x[..., row * 32 : row * 32 + 355, column * 32 : column * 32 + 355]
                assert torch.allclose(classifier(window), scores[..., row, column], atol=1e-4)


def test_with_padding_a_slid_window_differs():
    network = build(name="classifier", backbone="resnet18")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert not torch.allclose(network(x)[-1], slide_window(network, x), atol=1e-3)


def test_scores_are_placed_on_the_pixels_they_belong_to():
    scores = torch.tensor([[[[0.0, 10.0]]]])  # of pixels 2 and 6
    line = place_on_pixels(scores, stride=4, centre=2, height=1, width=9)[0, 0, 0]
    assert line.tolist() == [0, 0, 0, 2.5, 5, 7.5, 10, 10, 10]


# --- FCN ---------------------------------------------------------------------------------------------------------------


def test_fcn_offsets_are_the_released_networks():
    """Crop offsets of the released prototxts: 19 for 32s; 5 and 27 for 16s; 5, 9 and 31 for 8s; AlexNet 18."""
    coarse = build(3, name="fcn", stride=8, fc_channels=8)
    assert coarse.centre == 12.5
    assert coarse.upscore2.first == 1.5 and coarse.upscore.first == 7.5
    fused16 = coarse.centre - 1.5 * 16
    fused8 = fused16 - 1.5 * 8
    assert build(3, name="fcn", stride=32, fc_channels=8).upscore.first - coarse.centre == 19
    assert (fused16 - (-99 + 7.5)) / 16 == 5 and build(
        3, name="fcn", stride=16, fc_channels=8
    ).upscore.first - fused16 == 27
    assert (fused8 - (-99 + 3.5)) / 8 == 9 and coarse.upscore.first - fused8 == 31
    with pytest.warns(UserWarning, match="checkerboard"):
        alexnet = build(3, name="fcn", backbone="alexnet", stride=32, fc_channels=8)
    assert alexnet.upscore.first - alexnet.centre == 18


@pytest.mark.slow
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_fcn_scores_lie_where_the_image_says(stride):
    """With averaging weights, the logits that a dot in the image excites have their centre at the dot."""
    network = build(name="fcn", stride=stride, fc_channels=4)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
    at = torch.arange(576.0)
    for row, column in ((288, 288), (256, 320)):
        x = torch.zeros(1, 3, 576, 576)
        x[..., row - 2 : row + 2, column - 2 : column + 2] = 100
        with torch.no_grad():
            logits = network(x)[-1].sum(dim=(0, 1))
        centre = float((logits.sum(1) * at).sum() / logits.sum()), float((logits.sum(0) * at).sum() / logits.sum())
        assert centre == pytest.approx((row - 0.5, column - 0.5), abs=6)


def pair_of_fcn(upsampling):
    coarse = build(name="fcn", stride=32, fc_channels=8, upsampling=upsampling)
    nn.init.normal_(coarse.score_fr.weight)
    fine = build(name="fcn", stride=16, fc_channels=8, upsampling=upsampling)
    copied, fresh = start_from(fine, coarse.state_dict())
    assert "score_fr.weight" in copied and "backbone.conv5_3.weight" in copied
    assert all(name.startswith(("score_pool4", "upscore")) for name in fresh)
    x = torch.randn(1, 3, 224, 256)
    with torch.no_grad():
        return coarse(x)[-1], fine(x)[-1], coarse.scores(x)


def test_fcn_16s_begins_with_the_output_of_the_32s_it_starts_from():
    first, second, _ = pair_of_fcn("nearest")
    assert torch.equal(first, second)


@pytest.mark.slow
def test_with_interpolation_it_differs_only_by_interpolating_twice():
    """Between knots, linear interpolation of a linear interpolation is itself; at a knot it cuts the corner by at most an
    eighth of the second difference in each direction (the chord from a quarter before it to a quarter after it)."""
    first, second, scores = pair_of_fcn("bilinear")
    bend = sum(scores.diff(n=2, dim=dim).abs().amax() for dim in (-1, -2)) / 8
    difference = (first - second)[..., 32:-32, 32:-32].abs()
    assert 0 < difference.max() <= bend * 1.001
    assert difference.max() < 0.2 * first.std() * 8
    flat = (difference < 1e-5).float().mean()
    assert flat > 0.2  # a quarter of the pixels is further than a quarter of a knot from every knot, in both directions


def test_zero_skips_learn():
    network = build(name="fcn", stride=8, fc_channels=8).train()
    network(torch.randn(1, 3, 64, 64))[-1].square().mean().backward()
    assert network.score_pool3.weight.grad.abs().sum() > 0 and network.score_pool4.weight.grad.abs().sum() > 0


# --- torchvision's segmentation networks -------------------------------------------------------------------------------

TORCHVISION = {
    "fcn_resnet50": {"name": "fcn_resnet", "backbone": "resnet50"},
    "fcn_resnet101": {"name": "fcn_resnet", "backbone": "resnet101"},
    "deeplabv3_resnet50": {"name": "deeplabv3", "backbone": "resnet50"},
    "deeplabv3_resnet101": {"name": "deeplabv3", "backbone": "resnet101"},
    "deeplabv3_mobilenet_v3_large": {"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16},
    "lraspp_mobilenet_v3_large": {"name": "lraspp"},
}


@pytest.mark.parametrize(
    "theirs", [pytest.param(name, marks=pytest.mark.slow if "101" in name else ()) for name in TORCHVISION]
)
def test_torchvisions_weights_load_as_they_are_and_give_its_outputs(theirs):
    torch.manual_seed(0)
    options = {} if theirs.startswith("lraspp") else {"aux_loss": True}
    published = torchvision.models.get_model(theirs, weights=None, weights_backbone=None, num_classes=21, **options)
    randomise_norms(published)
    network = models.build(parse_model(TORCHVISION[theirs], where="test"), 21)
    network.load_state_dict(published.state_dict())
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        assert torch.allclose(network.eval()(x)[-1], published.eval()(x)["out"], atol=1e-5)
        if "aux_classifier" in dict(network.named_children()):
            for module in (*network.modules(), *published.modules()):
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            aux, out = network.train()(x)
            expected = published.train()(x)
            assert torch.allclose(aux, expected["aux"], atol=1e-4) and torch.allclose(out, expected["out"], atol=1e-4)


# --- atrous convolution ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_an_atrous_convolution_is_a_convolution_of_each_subsampled_lattice(rate):
    """arXiv:1606.00915, section 3.1: the two ways of computing it."""
    plain = nn.Conv2d(3, 4, 3, padding=1)
    atrous = nn.Conv2d(3, 4, 3, padding=rate, dilation=rate)
    atrous.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 12, 24)
    dense = atrous(x)
    for row in range(rate):
        for column in range(rate):
            lattice = plain(x[..., row::rate, column::rate])
            assert torch.allclose(dense[..., row::rate, column::rate], lattice, atol=1e-5)


def test_another_output_stride_keeps_the_weights_valid():
    """On the pixels that the coarse network keeps, and away from the border, a finer one gives the same features."""
    torch.manual_seed(0)
    coarse, fine = ResNet("resnet50", 16).eval(), ResNet("resnet50", 8).eval()
    randomise_norms(coarse)
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = coarse(x)[2], fine(x)[2]
    assert torch.allclose(a, b[..., ::2, ::2], atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("stride", [8, 16])
def test_a_checkpoint_of_one_stride_predicts_at_another(stride):
    trained = build(name="deeplabv3plus", backbone="resnet50", output_stride=16)
    other = build(name="deeplabv3plus", backbone="resnet50", output_stride=stride)
    other.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert other(torch.zeros(1, 3, 64, 96))[-1].shape == (1, 7, 64, 96)


def test_the_hole_algorithm_keeps_what_the_strided_vgg16_computed():
    torch.manual_seed(0)
    strided, holes = Vgg16(pool=3).eval(), Vgg16(pool=3, strides=(2, 2, 2, 1, 1)).eval()
    holes.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        pool4, dense4 = strided(x)[3], holes(x)[3]
    assert torch.allclose(pool4, dense4[..., ::2, ::2][..., : pool4.shape[-2], : pool4.shape[-1]], atol=1e-4)
    assert strided.dilation == 1 and holes.dilation == 4


def test_multi_grid_multiplies_the_last_stages_rates():
    """arXiv:1706.05587, section 3.2.1: with output stride 16 and (1, 2, 4) the rates are 2, 4, 8."""
    network = build(name="deeplabv3", output_stride=16, multi_grid=[1, 2, 4])
    assert [block.conv2.dilation[0] for block in network.backbone.layer4] == [2, 4, 8]


# --- shift and stitch --------------------------------------------------------------------------------------------------


class Tiny(models.GridNetwork):
    """Two strided layers without padding: what its dilated twin computes can be told exactly."""

    def __init__(self, atrous):
        super().__init__()
        self.stride, self.centre, self.multiple_of, self.min_size = 4, 3.0, 1, 16
        step, rate = (1, 2) if atrous else (2, 1)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, step),
            nn.ReLU(),
            nn.MaxPool2d(2, step, dilation=rate),
            nn.Conv2d(6, 5, 2, dilation=rate**2),
        )

    def scores(self, x):
        return self.backbone(x)

    def forward(self, x):
        return [place_on_pixels(self.scores(x), self.stride, self.centre, x.shape[-2], x.shape[-1])]


def test_shift_and_stitch_equals_the_atrous_version_of_the_same_network():
    torch.manual_seed(0)
    strided, atrous = Tiny(atrous=False), Tiny(atrous=True)
    atrous.load_state_dict(strided.state_dict())
    atrous.stride = 1
    x = torch.randn(2, 3, 40, 52)
    with torch.no_grad():
        stitched, dense = shift_and_stitch(strided, x), atrous(x)[-1]
    inside = slice(4, -12)  # beyond, shifted images end in zeros
    assert torch.allclose(stitched[..., inside, inside], dense[..., inside, inside], atol=1e-5)
    assert not torch.allclose(strided(x)[-1], dense, atol=1e-2)


def test_shift_and_stitch_of_a_resnet_equals_full_dilation():
    torch.manual_seed(0)
    network = build(name="fcn_resnet", backbone="resnet50", output_stride=32)
    randomise_norms(network)
    dilated = build(name="fcn_resnet", backbone="resnet50", output_stride=16)
    dilated.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        corner = network.scores(torch.nn.functional.pad(x, (-16, 16, -16, 16)))  # shifted by the dilated grid's stride
        assert torch.isfinite(corner).all()
        at_16 = dilated.backbone(x)[2]
        at_32 = network.backbone(x)[2]
    assert torch.allclose(at_16, at_32, atol=1e-4 * float(at_16.abs().max()))  # up to stride 16 they are one network


def test_modes_of_prediction_reach_the_network(tmp_path):
    network = Tiny(atrous=False)
    image = torch.randint(0, 256, (24, 31, 3), dtype=torch.uint8).numpy()
    whole, stitched = (
        Predictor(network, PredictConfig(mode=mode)).probs([image]) for mode in ("whole", "shift_and_stitch")
    )
    assert whole.shape == stitched.shape == (1, 5, 24, 31)
    assert torch.allclose(stitched.sum(1), torch.ones(1, 24, 31), atol=1e-5)
    assert not torch.allclose(whole, stitched, atol=1e-3)


def test_a_mode_that_does_not_fit_the_network_is_refused():
    image = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    network = build(name="unet", channels=4)
    predictor = Predictor(network, PredictConfig(mode="shift_and_stitch"))
    with pytest.raises(ValueError, match=r"needs a network whose scores lie on a coarse grid.*found UNet"):
        predictor.probs([image])
    skips = build(name="fcn", stride=8, fc_channels=8)
    with pytest.raises(ValueError, match="needs one grid of scores, found skips; set stride: 32"):
        Predictor(skips, PredictConfig(mode="shift_and_stitch")).probs([image])
    with pytest.raises(ValueError, match="sliding_window needs a classifier, found Tiny"):
        Predictor(Tiny(False), PredictConfig(mode="sliding_window")).probs([image])


class Constant(DeconvNet):
    """DeconvNet's place in the predictor, with scores that are known: the mean of each part, and its opposite."""

    def __init__(self):
        nn.Module.__init__(self)
        self.min_size, self.multiple_of, self.parts = 8, 8, []
        self.mean, self.std = (0, 0, 0), (1 / 255,) * 3  # x is the levels

    def forward(self, x):
        self.parts.append(x)
        own = x.mean((1, 2, 3), keepdim=True).expand(-1, 1, 8, 8)
        return [torch.cat([own, 50 - own], 1)]


def test_sub_windows_take_the_largest_score_of_the_parts_that_hold_a_pixel():
    """By hand: 16 x 16 in four blocks of 8 of levels 0, 40, 80, 120; parts are the whole and, by halves of 8, nine blocks."""
    x = torch.zeros(1, 3, 16, 16)
    for index, (row, column) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
        x[..., row : row + 8, column : column + 8] = 40 * index
    model = Constant()
    logits = sub_windows(model, x, (1, 0.5))
    assert len(model.parts) == 10 and all(part.shape == (1, 3, 8, 8) for part in model.parts)
    assert torch.allclose(logits[0, 0, ::15, ::15], torch.tensor([[60.0, 60.0], [80.0, 120.0]]))  # corners: whole is 60
    assert torch.allclose(
        logits[0, 1, ::15, ::15], torch.tensor([[50.0, 10.0], [0.0, 0.0]])
    )  # zeros lie outside of parts
    assert float(logits[0, 0, 7, 7]) == pytest.approx(60) and float(logits[0, 0, 11, 11]) == pytest.approx(120)


def test_an_ensemble_of_sub_windows_and_a_whole_fcn_is_the_mean_of_both_and_others_are_refused():
    """EDeconvNet (arXiv:1505.04366, section 4.4): the mean of DeconvNet's and FCN's maps."""
    image = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()
    fcn = build(2, name="unet", channels=4, depth=1)
    cfg = PredictConfig(mode="sub_windows", windows=(1, 0.5))
    both = Predictor(Constant(), cfg, others=[fcn]).probs([image])
    parts, whole = Predictor(Constant(), cfg).probs([image]), Predictor(fcn, PredictConfig()).probs([image])
    assert torch.allclose(both, (parts + whole) / 2, atol=1e-6)
    with pytest.raises(ValueError, match=r"sub_windows is DeconvNet's, found UNet; set predict.mode: whole"):
        Predictor(fcn, cfg).probs([image])


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, classes, expected",
    [
        # torchvision's published counts, 21 classes
        ({"name": "fcn_resnet", "backbone": "resnet50"}, 21, 35_322_218),
        ({"name": "fcn_resnet", "backbone": "resnet101"}, 21, 54_314_346),
        ({"name": "deeplabv3", "backbone": "resnet50"}, 21, 42_004_074),
        ({"name": "deeplabv3", "backbone": "resnet101"}, 21, 60_996_202),
        ({"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16}, 21, 11_029_328),
        ({"name": "lraspp"}, 21, 3_221_538),
        # ImageNet classifiers as torchvision publishes them
        ({"name": "classifier", "backbone": "alexnet"}, 1000, 61_100_840),
        ({"name": "classifier", "backbone": "vgg16"}, 1000, 138_357_544),
        ({"name": "classifier", "backbone": "googlenet"}, 1000, 6_624_904),
        ({"name": "classifier", "backbone": "resnet18"}, 1000, 11_689_512),
        ({"name": "classifier", "backbone": "resnet50"}, 1000, 25_557_032),
        # by hand: VGG16's 14,714,688 convolution parameters, fc6 4096*512*49+4096, fc7 4096^2+4096, score 21*4096+21, 64^2*21^2
        ({"name": "fcn", "stride": 32}, 21, 14_714_688 + 102_764_544 + 16_781_312 + 86_037 + 1_806_336),
    ],
)
def test_parameter_counts_are_the_published_ones(values, classes, expected):
    with torch.device("meta"):
        network = models.build(parse_model(values, where="test"), classes)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(
    "values, classes, millions, tolerance",
    [
        ({"name": "deeplabv1"}, 21, 20.5, 0.05),  # arXiv:1412.7062, table 2
        ({"name": "deeplabv1", "kernel": 4, "rate": 4}, 21, 65.1, 0.05),
        ({"name": "deeplabv1", "kernel": 4}, 21, 65.1, 0.05),
        ({"name": "deeplabv1", "kernel": 7}, 21, 134.3, 0.05),
        ({"name": "segnet"}, 11, 29.45, 0.05),  # arXiv:1511.00561, table 6
        ({"name": "segnet", "variant": "basic"}, 11, 1.425, 0.01),  # table 1; ours is 1.4175, the rest is not described
        ({"name": "deconvnet"}, 21, 252, 0.5),  # arXiv:1505.04366, section 4.3: "approximately 252M"
        ({"name": "unet"}, 2, 31.03, 0.01),
        ({"name": "hourglass", "stacks": 8}, 17, 25.1, 0.4),  # HRNet, arXiv:1902.09212, table 1: 8-stage hourglass
        ({"name": "deeplabv3plus", "backbone": "xception65"}, 21, 41.05, 0.05),
    ],
)
def test_parameter_counts_are_the_papers(values, classes, millions, tolerance):
    with torch.device("meta"):
        network = models.build(parse_model(values, where="test"), classes)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize(("kernel", "rate", "field"), [(7, 4, 24), (4, 4, 12), (4, 8, 24), (3, 12, 24)])
def test_the_fields_of_deeplab_v1_are_centred_and_as_wide_as_table_2_says(kernel, rate, field):
    """fc6 sees as far as `field` of its 8 pixels across: 224 and 128 of the image are (field + 4) * 8 for all but LargeFOV."""
    network = build(name="deeplabv1", kernel=kernel, rate=rate, fc_channels=2)
    if kernel == 7:
        assert build(name="deeplabv1", kernel=7, fc_channels=2).fc6.dilation == (4, 4)
    with torch.no_grad():
        network.fc6.weight.fill_(1)
        x = torch.zeros(1, 512, 33, 33)
        x[..., 16, 16] = 1
        seen = (network.fc6(x) - network.fc6(x * 0))[0, 0].nonzero()
    assert seen.min(0).values.tolist() == [16 - field // 2] * 2 and seen.max(0).values.tolist() == [16 + field // 2] * 2
    assert len(seen) == kernel**2


def test_multi_scale_features_are_fc7s_further_channels_for_one_classifier():
    """Section 4: 5 * 128 channels are concatenated to the last map. Spelled out, with one matrix for all channels."""
    network = randomise_norms(build(name="deeplabv1", fc_channels=6, multi_scale=True))
    x = torch.randn(1, 3, 40, 64)
    relu, conv = nn.functional.relu, nn.functional.conv2d
    with torch.no_grad():
        maps, added = network.backbone(x), []
        for index, (feature, stride) in enumerate(
            zip([nn.functional.pad(x, (0, 1, 0, 1)), *maps[:4]], (8, 4, 2, 1, 1), strict=True)
        ):
            first, second = network.mlps[index][0], network.mlps[index][3]
            assert (first.weight.shape[0], *first.weight.shape[2:]) == (128, 3, 3) and second.weight.shape == (
                128,
                128,
                1,
                1,
            )
            hidden = relu(conv(feature, first.weight, first.bias, stride, padding=1))
            added.append(relu(conv(hidden, second.weight, second.bias)))
        last = nn.functional.avg_pool2d(maps[4], 3, 1, 1)
        last = relu(network.fc7(relu(network.fc6(last))))
        joined, whole = torch.cat([last, *added], 1), torch.cat([network.fc8.weight, network.fc8_mlps.weight], 1)
        assert joined.shape == (1, 6 + 640, 6, 9)
        assert torch.allclose(network.scores(x), conv(joined, whole, network.fc8.bias), atol=1e-5)


def test_multi_scale_features_start_from_a_network_without_them_and_are_then_all_that_is_new():
    plain = build(name="deeplabv1", fc_channels=6)
    network = build(name="deeplabv1", fc_channels=6, multi_scale=True)
    _, fresh = start_from(network, plain.state_dict())
    tuned = {id(p) for part in network.fine_tuned() for p in part.parameters()}
    assert fresh == sorted(name for name, p in network.named_parameters() if id(p) not in tuned)
    assert {name.split(".")[0] for name in fresh} == {"mlps", "fc8_mlps"}


def test_xception65_has_the_published_size():
    """39.92 M with its classifier of 1000 classes, as the model zoos list it."""
    classifier = 2048 * 1000 + 1000
    assert (sum(p.numel() for p in build_backbone("xception65", 16).parameters()) + classifier) / 1e6 == pytest.approx(
        39.92, abs=0.005
    )


@pytest.mark.parametrize(
    "name, whole, head",
    [
        ("efficientnet_lite0", 4_652_008, 320),
        ("efficientnet_lite1", 5_416_680, 320),
        ("efficientnet_lite2", 6_092_072, 352),
        ("mobilenet_v2", 3_504_872, 320),
        ("mobilenet_v3_large", 5_483_032, None),
    ],
)
def test_encoders_have_the_published_counts_less_the_classifier(name, whole, head):
    first = 960 * 1280 + 1280 if head is None else head * 1280 + 2 * 1280  # a layer with biases, or with batch norm
    classifier = first + 1280 * 1000 + 1000
    assert sum(p.numel() for p in build_backbone(name, 16).parameters()) == whole - classifier
