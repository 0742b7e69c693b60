"""Temperature scaling: confidences equal torch's softmax of the divided logits, and the fit equals SciPy's and torch's."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from pipeline.cli import answers, cli_output
from pipeline.cli.tables import print_calibrated
from pipeline.config import PredictConfig, SegmentConfig, parse
from pipeline.corpus import list_items
from pipeline.corpus.samples import load_pair
from pipeline.errors import UserError
from pipeline.metrics.temperature import LabelledPixels, fit_temperature, negative_log_likelihood
from pipeline.models import checkpoint
from pipeline.predict import Predictor
from pipeline.segment.calibrate import PIXELS, SEED, Calibrated, Change, calibrate
from tests.small_train import QUICK, train_alone
from tests.small_train import config as train_config
from tests.test_confidence import SIZE, Small, blended, check, many, picture, softmax_of  # noqa: F401  # a fixture

T = 2.5


class Divided(torch.nn.Module):
    """A network whose logits are divided in plain torch."""

    def __init__(self, network):
        super().__init__()
        self.network, self.normalise, self.multiple_of = network, network.normalise, network.multiple_of

    def forward(self, x):
        return [self.network(x)[-1] / T]


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, softmax_of),
        ({"flip": True, "scales": (0.5, 1, 1.5)}, many),
        ({"tile": (24, 32), "overlap": 8}, lambda network, image: blended(network, image, (24, 32), 8)),
    ],
    ids=["whole", "scales and flip", "overlapping tiles"],
)
def test_confidences_are_the_softmax_of_the_divided_logits(stride, settings, expected, picture):  # noqa: F811
    network = Small(stride=stride)
    predictor = Predictor(network, PredictConfig(**settings, temperature=T), num_threads=2, confidence_map=True)
    probs = expected(Divided(network), picture)
    check(predictor, picture, probs)
    torch.testing.assert_close(predictor.probs([picture])[0] if "tile" not in settings else probs, probs)
    (found,), (plain,) = predictor.masks([picture]), Predictor(network, PredictConfig(**settings)).masks([picture])
    assert found.confidence < plain.confidence and found.entropy > plain.entropy
    if settings == {}:
        assert np.array_equal(found.mask, plain.mask)
        x = network.normalise(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        x = torch.nn.functional.pad(x, (0, -SIZE[1] % stride, 0, -SIZE[0] % stride))
        with torch.inference_mode():
            rows, columns = (-(-n // stride) for n in SIZE)
            grid = (network.coarse(x)[0, :, :rows, :columns] / T).softmax(0)
        assert found.confidence == pytest.approx(float(grid.amax(0).mean()), abs=1e-5)


def test_each_network_of_an_ensemble_is_divided_before_the_mean(picture):  # noqa: F811
    networks = [Small(seed=1), Small(seed=2, stride=1)]
    cfg = PredictConfig(temperature=T)
    predictor = Predictor(networks[0], cfg, others=networks[1:], confidence_map=True)
    check(predictor, picture, sum(softmax_of(Divided(network), picture) for network in networks) / 2)


@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "scales": (0.5, 1)}, {"tile": (15, 14)}], ids=["whole", "passes", "tiles"]
)
def test_the_logits_of_some_pixels_give_their_probabilities(settings, picture):  # noqa: F811
    networks = [Small(seed=1), Small(seed=2, stride=1)]
    predictor = Predictor(networks[0], PredictConfig(**settings, temperature=T), others=networks[1:])
    rows, columns = np.array([44, 0, 7, 15]), np.array([0, 69, 33, 14])
    ((_, assembly),) = predictor.answers([(None, picture)], keep_probs=True)
    logits = predictor.logits_at(picture, rows, columns)
    assert logits.shape == (4, 8 if "flip" in settings else 2, 6)
    probs = (torch.from_numpy(logits) / T).softmax(2).mean(1)
    torch.testing.assert_close(probs, assembly.probs[:, rows, columns].T, atol=1e-6, rtol=1e-5)


def test_where_tiles_overlap_the_logits_are_of_the_one_with_the_larger_part(picture):  # noqa: F811
    network, columns = Small(), np.arange(SIZE[1])
    predictor = Predictor(network, PredictConfig(tile=(45, 40), overlap=10))
    found = predictor.logits_at(picture, np.zeros_like(columns), columns)
    alone = Predictor(network, PredictConfig())
    for first, last, left in ((0, 35, 0), (35, 70, 30)):  # tiles are 0 to 40 and 30 to 70
        tile = picture[:, left : left + 40]
        inside = np.arange(first, last)
        assert np.array_equal(found[first:last], alone.logits_at(tile, np.zeros_like(inside), inside - left))


def pixels(passes, scale=3.0, number=4000, classes=5, seed=0):
    """Logits of which the label is drawn from the softmax of the mean over a hidden temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(number, passes, classes)) * 2
    probs = np.exp(log_softmax(logits.mean(1), axis=1))
    label = (probs.cumsum(1) > rng.random((number, 1))).argmax(1).astype(np.uint8)
    return LabelledPixels((logits * scale).astype(np.float32), label, number)


def test_the_fit_is_that_of_lbfgs_in_torch_and_follows_the_scale():
    image = pixels(1)
    logits, label = torch.from_numpy(image.logits[:, 0]).double(), torch.from_numpy(image.label).long()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / log_t.exp(), label)
        value.backward()
        return value

    optimizer.step(loss)
    found = fit_temperature([image])
    assert found == pytest.approx(float(log_t.exp().detach()), rel=1e-3)
    assert 2.8 < found < 3.2  # labels are drawn from the logits before they were made three times as large
    assert fit_temperature([dataclasses.replace(image, logits=3 * image.logits)]) == pytest.approx(3 * found, rel=1e-3)


def test_the_fit_of_several_passes_is_scipys_of_the_mean_of_their_softmax():
    image = pixels(3)

    def loss(temperature):
        logs = logsumexp(log_softmax(image.logits.astype(np.float64) / temperature, axis=2), axis=1) - np.log(3)
        return -np.take_along_axis(logs, image.label[:, None].astype(int), 1).mean()

    expected = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature([image]) == pytest.approx(expected, rel=1e-3)
    assert negative_log_likelihood([image], 1.7) == pytest.approx(loss(1.7), rel=1e-6)


def test_an_image_has_the_weight_of_its_labelled_pixels():
    one, two = (LabelledPixels(np.float32([[[x, 0]]]), np.uint8([0]), n) for x, n in ((0, 30), (np.log(3), 10)))
    none = LabelledPixels(np.empty((0, 1, 2), np.float32), np.empty(0, np.uint8), 0)
    expected = (30 * np.log(2) + 10 * np.log(4 / 3)) / 40
    assert negative_log_likelihood([one, none, two], 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    "logits, label, sentence",
    [
        ([[5, 0], [0, 5]], [0, 1], "0.05 to 20, as of a network that is right about every labelled pixel"),
        ([[5, 0], [0, 5]], [1, 0], "0.05 to 20, as of a network that is no better than chance"),
        (np.empty((0, 2)), [], "no pixel is labelled"),
    ],
)
def test_a_fit_without_a_best_temperature_is_refused(logits, label, sentence):
    image = LabelledPixels(np.float32(logits)[:, None], np.uint8(label), len(label))
    with pytest.raises(UserError, match=sentence):
        fit_temperature([image])


def scaled(uri, output, factor):
    """The checkpoint with logits so many times as large."""
    ready = checkpoint.load(uri)
    network = copy.deepcopy(ready.model)
    *_, last = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 19)
    last.weight.data.mul_(factor)
    last.bias.data.mul_(factor)
    checkpoint.save(str(output), network, ready.model_config, ready.label_space, {})
    return str(output)


def judged_by_hand(cfg, item_of, temperatures):
    """Calibration error and loss over every labelled pixel of some images, by torch and NumPy."""
    ready = checkpoint.load(cfg.checkpoint)
    found, predictor = [], Predictor(ready.model, PredictConfig())
    pairs = [load_pair(item, ready.label_space, cfg.max_pixels) for item in item_of]
    for temperature in temperatures:
        logs, right = [], []
        for image, label in pairs:
            scores = predictor.probs([image])[0].double().log() / temperature
            log_probs, truth = scores.log_softmax(0).flatten(1), torch.from_numpy(label).flatten().long()
            log_probs, truth = log_probs[:, truth != 255], truth[truth != 255]
            right.append(log_probs.argmax(0) == truth)
            logs.append(torch.stack([log_probs.amax(0), log_probs.gather(0, truth[None])[0]]))
        (sure, of_label), right = torch.cat(logs, 1), torch.cat(right).double()
        place = (sure.exp() * 15).long().clamp(max=14)
        gaps = torch.zeros(15, dtype=torch.float64).index_add_(0, place, right - sure.exp()).abs()
        found.append((float(gaps.sum() / len(right)), float(-of_label.mean())))
    return found


@pytest.mark.long
@pytest.mark.slow
def test_a_trained_network_that_is_three_times_too_sure_is_calibrated(ray_session, scenes, tmp_path):
    trained = train_config(scenes, tmp_path / "train", workers=1, **QUICK | {"epochs": 4, "validate_every": 4})
    train_alone(trained)
    sure = scaled(f"{trained.output}/best", tmp_path / "sure", 3)
    values = {
        "corpus": {"images": scenes[0], "labels": scenes[1], "layout": "cityscapes"}, "split": "val",
        "output": str(tmp_path / "unused"), "cpus_per_actor": 1, "images_per_shard": 4, "crf": {},
    }  # fmt: skip
    cfg = parse(SegmentConfig, values | {"checkpoint": sure, "predict": {"temperature": 7}}, where="test")
    steps = []
    found = calibrate(cfg, 6, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (9, 9) and (found.images, found.fitted_images, found.judged_images) == (6, 3, 3)
    assert found.helps and found.ece.after < found.ece.before and found.nll.after < found.nll.before
    assert found.ece.low <= found.ece.change <= found.ece.high < 0
    assert not (tmp_path / "unused").exists()

    items = [list_items(cfg.corpus, "val")[index] for index in np.random.default_rng(SEED).permutation(6)]
    by_hand = judged_by_hand(cfg, items[3:], (1, found.fitted_temperature))
    assert [(found.ece.before, found.nll.before), (found.ece.after, found.nll.after)] == [
        pytest.approx(pair, abs=2e-4) for pair in by_hand
    ]
    assert found.pixels <= 6 * PIXELS  # fewer than an image has: all of them are taken, and the fit is exact
    losses = {t: judged_by_hand(cfg, items, (t * found.temperature,))[0][1] for t in (0.99, 1, 1.01)}
    assert losses[1] < min(losses[0.99], losses[1.01])
    plain = parse(SegmentConfig, values | {"checkpoint": f"{trained.output}/best"}, where="test")
    assert found.temperature == pytest.approx(3 * calibrate(plain, 6).temperature, rel=1e-3)


def test_without_two_labelled_images_nothing_is_fitted(scenes, tiny_checkpoint):
    corpus = {"images": scenes[0], "layout": "cityscapes"}
    given = {"corpus": corpus, "checkpoint": tiny_checkpoint, "output": "/unused", "split": "val"}
    with pytest.raises(UserError, match="0 labelled images of split 'val' are chosen, and a temperature needs two"):
        calibrate(parse(SegmentConfig, given, where="test"), 6)


FOUND = Calibrated(
    1.52, 9, 180_000, 4, 1.5, 5, 123_456, Change(0.05, 0.02, -0.03, -0.04, -0.01), Change(1, 0.9, -0.1, -0.2, 0.1)
)


def test_the_answer_is_printed_for_people_and_programs(capsys):
    console = Console(width=120, record=True)
    print_calibrated(console, FOUND)
    text = console.export_text()
    assert "5.000" in text and "-4.000 to -1.000" in text and "config: predict: {temperature: 1.52}" in text
    assert "judged on 123456 labelled pixels of 5 images, with temperature 1.5, fitted on 4 others" in text
    worse = dataclasses.replace(FOUND, ece=Change(0.02, 0.019, -0.001, -0.01, 0.01))
    print_calibrated(console, worse)
    assert "does not help beyond chance" in (text := console.export_text()) and "config:" not in text
    capsys.readouterr()
    cli_output.write("json", answers.calibration(FOUND), list)
    document = json.loads(capsys.readouterr().out)
    assert document["temperature"] == 1.52 and document["helps"] is True
    assert document["rows"][0] == {
        "name": "ece",
        "before": 0.05,
        "after": 0.02,
        "change": -0.03,
        "low": -0.04,
        "high": -0.01,
    }
