"""Losses, class balance, parameter groups, rates and averaged weights equal numbers by hand or from the definition."""

import itertools
import math

import numpy as np
import pytest
import torch

from pipeline import models
from pipeline.config import LossConfig, OptimizerConfig, parse, parse_model
from pipeline.labels import IGNORE
from pipeline.models import Network
from pipeline.train.learner import Learner
from pipeline.train.recipe import Ema, Loss, build_optimizer, class_weights, rate, set_lr, set_norm
from pipeline.train.recipe.losses import cross_entropy, dice, focal, lovasz_softmax, ohem
from tests.small_train import config


def logits_of(*probs):
    """(1, C, 1, W) logits whose softmax is the given column for each pixel."""
    return torch.log(torch.tensor(probs, dtype=torch.float32)).T[None, :, None]


def labels_of(*ids):
    return torch.tensor([[list(ids)]])


def loss_of(terms, weights=None, **values):
    cfg = parse(LossConfig, {"terms": terms, **values}, where="test")
    return Loss(cfg, weights or {}, "cpu")


def value_of(loss, logits, label):
    return float(loss(logits, label, loss.totals(label)))


CE = {"name": "cross_entropy"}


def test_the_loss_is_the_mean_over_labelled_pixels_alone():
    loss = Loss(LossConfig(), {}, "cpu")
    logits = logits_of((0.25, 0.75), (0.5, 0.5), (0.1, 0.9))
    assert value_of(loss, [logits], labels_of(0, 1, 255)) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert value_of(loss, [logits], labels_of(255, 255, 255)) == 0


def test_weighted_cross_entropy_is_divided_by_the_sum_of_the_weights():
    loss = loss_of([CE | {"class_weights": "inverse"}], {"inverse": np.array([3.0, 1.0])})
    logits = logits_of((0.25, 0.75), (0.5, 0.5))
    assert value_of(loss, [logits], labels_of(0, 1)) == pytest.approx((3 * math.log(4) + math.log(2)) / 4)


def test_label_smoothing_spreads_a_share_of_the_target_over_all_classes():
    """arXiv:1512.00567, section 7: the target is (1 - e) of the label and e / C of each class."""
    smooth = loss_of([CE | {"label_smoothing": 0.2}])
    logits = logits_of((0.25, 0.75), (0.5, 0.5))
    log = logits.log_softmax(1)
    first, second = log[..., 0].flatten(), log[..., 1].flatten()
    expected = -(0.9 * first[0] + 0.1 * first[1] + 0.1 * second[0] + 0.9 * second[1]) / 2
    assert value_of(smooth, [logits], labels_of(0, 1)) == pytest.approx(float(expected))


def test_focal_loss_scales_cross_entropy_by_the_missing_probability():
    logits, label = logits_of((0.25, 0.75), (0.5, 0.5)), labels_of(0, 1)
    expected = [0.75**2 * math.log(4), 0.5**2 * math.log(2)]
    assert focal(logits, label, gamma=2).flatten().tolist() == pytest.approx(expected)
    assert torch.equal(focal(logits, label, gamma=0), cross_entropy(logits, label))


def test_focal_loss_has_a_finite_gradient_at_certainty():
    logits = torch.tensor([[[[100.0]], [[0.0]]]], requires_grad=True)
    focal(logits, torch.zeros(1, 1, 1, dtype=torch.long), gamma=0.5).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.6, 1, (0.1, 0.5)),  # those below the threshold
        (0.2, 1, (0.1,)),
        (0.05, 2, (0.1, 0.5)),  # none is below it: the two hardest
        (0.05, 9, (0.1, 0.5, 0.8)),  # fewer are labelled than are asked for
    ],
)
def test_ohem_keeps_hard_pixels_and_at_least_so_many(threshold, min_kept, kept):
    logits = logits_of((0.1, 0.9), (0.5, 0.5), (0.8, 0.2), (0.001, 0.999))
    label = labels_of(0, 0, 0, 255)
    weights = (label != IGNORE).float()
    expected = sum(-math.log(p) for p in kept) / len(kept)
    assert ohem(logits, label, weights, threshold, min_kept).tolist() == pytest.approx([expected], rel=1e-5)


def test_dice_loss_by_hand():
    logits = logits_of((0.8, 0.2), (0.4, 0.6), (0.9, 0.1))
    # Class 0: overlap 0.8, sizes 0.64 + 0.16 and 1; class 1: overlap 0.6, sizes 0.04 + 0.36 and 1. The third is ignored.
    expected = ((1 - 1.6 / 1.8) + (1 - 1.2 / 1.4)) / 2
    assert dice(logits, labels_of(0, 1, 255)).tolist() == pytest.approx([expected])
    assert dice(logits[..., :2], labels_of(0, 0)).tolist() == pytest.approx(
        [1 - 2 * 1.2 / (0.8 + 2)]
    )  # class 1 is not there
    assert dice(logits, labels_of(255, 255, 255)).tolist() == [0]


def lovasz_by_definition(errors, truth):
    """The Lovasz extension of the Jaccard loss as its definition says: sum over i of (e_i - e_i+1) * loss(set of the first i).

    The set is of mispredicted pixels; loss(set) = |set| / |truth united with set| (arXiv:1705.08790, eq. 3 and 8).
    """
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    sorted_errors = [errors[i] for i in order] + [0.0]
    total, wrong = 0.0, set()
    for position, pixel in enumerate(order):
        wrong.add(pixel)
        union = wrong | {i for i, t in enumerate(truth) if t}
        total += (sorted_errors[position] - sorted_errors[position + 1]) * len(wrong) / len(union)
    return total


def test_lovasz_softmax_is_the_lovasz_extension_by_definition():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(1, 3, 2, 4, generator=generator)
        label = torch.randint(0, 3, (1, 2, 4), generator=generator)
        label[0, 0, 0] = IGNORE
        probs, flat = logits.softmax(1).flatten(2)[0], label.flatten()
        kept = [i for i in range(8) if flat[i] != IGNORE]
        losses = []
        for c in sorted({int(flat[i]) for i in kept}):
            truth = [int(flat[i] == c) for i in kept]
            errors = [abs(t - float(probs[c, i])) for t, i in zip(truth, kept, strict=True)]
            losses.append(lovasz_by_definition(errors, truth))
        assert lovasz_softmax(logits, label).tolist() == pytest.approx([sum(losses) / len(losses)], rel=1e-5)


def test_lovasz_softmax_of_certain_answers_is_the_jaccard_loss():
    hard = torch.tensor([0, 0, 1, 1])
    logits = torch.nn.functional.one_hot(hard, 2).T[None, :, None] * 100.0
    # Class 0: intersection 1, union 2; class 1: intersection 2, union 3.
    assert lovasz_softmax(logits, labels_of(0, 1, 1, 1)).tolist() == pytest.approx([((1 - 1 / 2) + (1 - 2 / 3)) / 2])


def test_auxiliary_logits_count_their_weight():
    main, aux = logits_of((0.5, 0.5)), logits_of((0.25, 0.75))
    loss = loss_of([CE], aux_weight=0.3)
    assert value_of(loss, [aux, aux, main], labels_of(0)) == pytest.approx(math.log(2) + 0.3 * 2 * math.log(4))
    assert value_of(loss_of([CE], aux_weight=0), [aux, main], labels_of(0)) == pytest.approx(math.log(2))


def test_terms_are_summed_with_their_weights():
    logits, label = logits_of((0.8, 0.2), (0.4, 0.6)), labels_of(0, 1)
    both = loss_of([CE, {"name": "dice", "weight": 2}])
    expected = value_of(loss_of([CE]), [logits], label) + 2 * float(dice(logits, label))
    assert value_of(both, [logits], label) == pytest.approx(expected)


TERMS = (
    CE,
    CE | {"class_weights": "median_frequency"},
    {"name": "focal", "gamma": 2},
    {"name": "ohem", "threshold": 0.4, "min_kept": 5},
    {"name": "dice"},
    {"name": "lovasz"},
)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: "-".join(map(str, term.values())))
def test_parts_of_a_batch_add_up_to_the_loss_of_the_whole(term):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 5, 6, generator=generator)
    label = torch.randint(0, 3, (4, 5, 6), generator=generator)
    label[0, 1:] = IGNORE  # parts with very different numbers of labelled pixels
    loss = loss_of([term], {"median_frequency": np.array([1.0, 2.0, 0.5])})
    totals = loss.totals(label)
    assert torch.allclose(totals, loss.totals(label[:1]) + loss.totals(label[1:]))
    parts = [float(loss([logits[part]], label[part], totals)) for part in (slice(0, 1), slice(1, 4))]
    assert sum(parts) == pytest.approx(float(loss([logits], label, totals)), rel=1e-5)


COUNTS = np.array([[60, 40, 0, 0], [150, 0, 50, 0]])  # pixels of 4 classes in 2 images


def test_median_frequency_weights_by_hand():
    # Frequencies: 210 of 300 pixels, 40 of 100, 50 of 200 in the images that hold the class: 0.7, 0.4, 0.25; median 0.4.
    expected = [0.4 / 0.7, 1, 0.4 / 0.25, 0]
    assert class_weights(COUNTS, "median_frequency").tolist() == pytest.approx(expected)


def test_inverse_weights_by_hand():
    inverse = np.array([300 / 210, 300 / 40, 300 / 50])
    assert class_weights(COUNTS, "inverse").tolist() == pytest.approx([*inverse / inverse.mean(), 0])
    root = np.sqrt(inverse)
    assert class_weights(COUNTS, "sqrt_inverse").tolist() == pytest.approx([*root / root.mean(), 0])


def test_class_weights_without_a_labelled_pixel_are_refused():
    with pytest.raises(ValueError, match="training labels hold none"):
        class_weights(np.zeros((2, 3), int), "inverse")


class Tiny(Network):
    """A backbone and a head of one convolution and one norm each."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
        self.head = torch.nn.Sequential(torch.nn.Conv2d(2, 1, 1), torch.nn.BatchNorm2d(1))


def optimizer_config(**changes):
    values = {"name": "sgd", "lr": 1.0, "backbone_lr_factor": 0.1, "weight_decay": 0.5, "warmup_steps": 0}
    values |= {"poly_power": 0.5} if "schedule" not in changes else {}
    return parse(OptimizerConfig, values | changes, where="test")


def groups_of(network, cfg):
    optimizer = build_optimizer(network, cfg)
    set_lr(optimizer, cfg, 0, 10)
    return {
        (group["lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
        for group in optimizer.param_groups
    }


def test_groups_learn_at_their_own_rate_and_decay():
    biases = {(0.1, 0.0, 2), (1.0, 0.0, 1)}
    norms = {(0.1, 0.0, 2 + 2), (1.0, 0.0, 1 + 1)}  # scale and shift, which is called bias but is none of a convolution
    assert groups_of(Tiny(), optimizer_config()) == {(0.1, 0.5, 18), (1.0, 0.5, 2)} | biases | norms
    doubled = groups_of(Tiny(), optimizer_config(bias_lr_factor=2, decay_all=True))
    assert doubled == {(0.1, 0.5, 18), (1.0, 0.5, 2), (0.2, 0.5, 2), (2.0, 0.5, 1), (0.1, 0.5, 4), (1.0, 0.5, 2)}


def rates_of(**values):
    """The names of a network's parameters by their multiple of the rate, as a released solver lists them."""
    network = models.build(parse_model(values, where="test"), 3)
    optimizer = build_optimizer(network, optimizer_config(backbone_lr_factor=0.1, bias_lr_factor=2))
    factor = {id(p): group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    return {name: round(factor[id(p)] * 10) for name, p in network.named_parameters() if p.requires_grad}


def expected(rates, scored):
    """1 for weights and 2 for biases, 10 and 20 for those of the layers that give scores."""
    return {name: (10 if name.startswith(scored) else 1) * (2 if name.endswith("bias") else 1) for name in rates}


@pytest.mark.parametrize(
    ("values", "scored"),
    [
        ({"name": "deeplabv1", "fc_channels": 4}, ("fc8.",)),
        ({"name": "deeplabv2", "backbone": "vgg16", "fc_channels": 4}, tuple(f"branches.{i}.6." for i in range(4))),
        ({"name": "fcn", "stride": 8, "fc_channels": 4}, ("score", "upscore")),
    ],
)
def test_on_vgg16_only_the_layers_that_score_learn_faster(values, scored):
    """The released solvers: lr_mult 1 and 2 for all layers of VGG16, fc6 and fc7 among them, 10 and 20 for fc8."""
    rates = rates_of(**values)
    assert rates == expected(rates, scored)
    assert {10, 1, 2} <= set(rates.values())


def test_on_a_resnet_the_branches_learn_faster_and_norms_at_the_plain_rate():
    """The released training of DeepLab v2 on ResNet-101: 1, and 10 and 20 for the pyramid."""
    rates = rates_of(name="deeplabv2", backbone="resnet50")
    assert {rates[name] for name in rates if name.startswith("backbone.")} == {1}
    assert {rates[name] for name in rates if name.startswith("branches.")} == {10, 20}
    head = rates_of(name="deeplabv3", aux=False)
    assert (head["classifier.4.weight"], head["classifier.4.bias"], head["classifier.2.bias"]) == (10, 20, 10)


@pytest.mark.parametrize(
    ("model", "changes", "learns", "holds"),
    [
        # Table 2's FCN-32s-fixed: the last layer alone.
        ({"stride": 32, "upsampling": "transposed_fixed"}, {"freeze_all_but_head": True},
         ("score_fr.",), ("backbone.", "fc6.", "fc7.", "upscore.")),
        # The paper's own: the last step is bilinear interpolation, the inner one is learnt.
        ({"stride": 16, "last_upsampling": "transposed_fixed"}, {},
         ("backbone.", "fc6.", "fc7.", "score_fr.", "score_pool4.", "upscore2."), ("upscore.",)),
        ({"stride": 16, "upsampling": "transposed_fixed"}, {"freeze_backbone": True},
         ("fc6.", "fc7.", "score_fr.", "score_pool4."), ("backbone.", "upscore2.", "upscore.")),
    ],
)  # fmt: skip
def test_a_step_moves_the_parts_that_learn_and_no_other(tmp_path, model, changes, learns, holds):
    network = {"name": "fcn", "fc_channels": 8, "dropout": 0, **model}
    sgd = {"name": "sgd", "lr": 0.1, "backbone_lr_factor": 1, "weight_decay": 0, "warmup_steps": 0, "poly_power": 1}
    cfg = config(("/images", "/labels"), tmp_path, model=network, workers=1, optimizer=sgd, **changes)
    learner = Learner(cfg, 19, None, rank=0, world_size=1, device=torch.device("cpu"))
    if learner.network.skips:
        torch.nn.init.normal_(learner.network.score_pool4.weight)
    before = {name: value.clone() for name, value in learner.network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    label = torch.randint(0, 19, (2, 64, 64), generator=generator, dtype=torch.uint8)
    learner.step(images, label, 0, 4, 0.0)
    moved = {name for name, value in learner.network.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith(holds)} & moved == set()
    assert moved == {name for name in before if name.startswith(learns)}


def test_a_frozen_backbone_is_in_no_group_and_its_statistics_hold_still():
    network = Tiny()
    network.backbone.requires_grad_(False)
    assert sum(size for *_, size in groups_of(network, optimizer_config())) == 2 + 1 + 1 + 1
    set_norm(network, freeze_backbone=True, freeze_norm=False)
    assert [part.training for part in (network.backbone[1], network.head[1])] == [False, True]
    set_norm(network, freeze_backbone=False, freeze_norm=True)
    assert [part.training for part in (network.backbone[1], network.head[1])] == [False, False]
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the network learns"):
        build_optimizer(network, optimizer_config())


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"poly_power": 0.5, "warmup_steps": 1}, {0: 0.5, 3: 0.5}),  # (1 - 3/4) ** 0.5
        ({"schedule": "cosine", "final_factor": 0.2}, {0: 1, 2: 0.6, 1: 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2}),
        ({"schedule": "step", "milestones": [0.25, 0.75], "step_factor": 0.1}, {0: 1, 1: 0.1, 2: 0.1, 3: 0.01}),
    ],
)
def test_rates_of_four_steps(changes, rates):
    assert {step: rate(optimizer_config(**changes), step, 4) for step in rates} == pytest.approx(rates)


def test_one_cycle_rises_for_three_tenths_and_falls_to_nothing():
    cfg = optimizer_config(schedule="one_cycle")
    rates = [rate(cfg, step, 1000) for step in range(1000)]
    assert (rates[0], rates[150], rates[300]) == pytest.approx((1 / 25, (1 / 25 + 1) / 2, 1))
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": "step", "milestones": None}, "schedule 'step' needs milestones"),
        ({"schedule": "cosine", "final_factor": 0, "poly_power": 1}, "poly_power belongs to schedule 'poly'"),
        ({"schedule": "one_cycle", "warmup_steps": 3}, "has its own warm-up"),
    ],
)
def test_keys_that_do_not_fit_the_schedule_are_told(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        optimizer_config(**changes)


def test_averaged_weights_follow_the_recursion():
    network = Tiny()
    ema = Ema(network, decay=0.5)
    weight = network.head[0].weight
    expected = weight.detach().clone()
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0, 0.25, 4.0, 1.0, 1.0, 9.0)):
        with torch.no_grad():
            weight.fill_(value)
        network.head[1].running_mean.fill_(value)
        ema.update(network.state_dict(), step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert torch.allclose(ema.network.head[0].weight, expected)
    assert ema.network.head[1].running_mean.item() == 9  # buffers are copied
    assert not any(p.requires_grad for p in itertools.chain(ema.network.parameters()))
