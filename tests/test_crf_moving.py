"""The examples on the page about moving from pydensecrf work as described."""

import re

import numpy as np
import pytest

import pipeline.crf
from pipeline.crf import DenseCRF, bilateral_features, gaussian_features
from pipeline.errors import UserError
from tests.crf_cases import energies_of, noisy_probs, photograph, street_scene


def table():
    """(theirs, ours) of each line of the page."""
    lines = pipeline.crf.__doc__.splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines if re.match(r" {4}\S.* {2,}\S", line)]


def calls(prefix):
    found = [tuple(row) for row in table() if row[0].startswith(prefix)]
    assert found, f"the page has no line that begins with {prefix}"
    return found


@pytest.fixture
def names():
    """What the page's calls mention."""
    densecrf, utils = pytest.importorskip("pydensecrf.densecrf"), pytest.importorskip("pydensecrf.utils")
    image, probs = street_scene()
    n, h, w = probs.shape
    y, x = np.mgrid[:h, :w].reshape(2, -1).astype(np.float32)
    return {
        **vars(densecrf), **vars(utils), "np": np, "n": n, "h": h, "w": w, "p": 0.7, "compat": 3,
        "U": energies_of(probs), "probs": probs, "im": image.copy(), "feats": np.stack([x / 9, y / 5]),
    }  # fmt: skip


def ours_of(text, names):
    """The value of one of our expressions: DenseCRF is ours there, pydensecrf's on the left."""
    return eval(text, {**names, "DenseCRF": DenseCRF})


def test_every_kind_of_unary_is_the_same(names):
    for theirs, ours in calls("unary_from_"):
        ours, *remark = ours.split(", labels from 1")
        labels = names["probs"].argmax(0) + len(remark)
        labels[:5] = 0
        here = {**names, "labels": labels}
        expected = np.exp(-eval(theirs, here)).reshape(names["probs"].shape)
        assert ours_of(ours, here).inference(0) == pytest.approx(expected / expected.sum(0), rel=1e-4, abs=2e-5)


def test_every_kind_of_kernel_is_the_same(names):
    ((make, make_ours),), ((infer, infer_ours),) = calls("d ="), calls("np.argmax")
    rows = calls("d.add")
    assert len(rows) == 3
    for theirs, ours in rows:
        left, right = dict(names), {**names, "DenseCRF": DenseCRF}
        exec(f"{make}\n{theirs}\nlabels = {infer}", left)
        exec(f"{make_ours}\n{ours}\nlabels = {infer_ours}", right)
        assert (left["labels"] != names["probs"].argmax(0)).any()
        assert np.array_equal(left["labels"], right["labels"])


@pytest.mark.parametrize("compat", [10.0, "matrix"])
def test_features_of_grids_are_in_the_order_of_pydensecrf_and_so_give_its_labels(names, camvid, compat):
    image, label = photograph(camvid, 20)
    image, label = image[:240, :320], label[:240, :320].astype(int)
    probs = noisy_probs(label, 11)
    compat = -10 * np.eye(11, dtype=np.float32) + np.float32(0.5) if compat == "matrix" else compat
    here = {
        **names,
        "s": (13, 7),
        "t": (9, 10, 11),
        "h": 240,
        "w": 320,
        "im": image.copy(),
        "n": 11,
        "U": energies_of(probs),
    }
    rows = calls("create_pairwise_")
    assert len(rows) == 2
    reference = here["DenseCRF"](probs[0].size, 11)
    reference.setUnaryEnergy(here["U"])
    crf, swapped = DenseCRF.from_probs(probs), DenseCRF.from_probs(probs)
    for theirs, ours in rows:
        feats = eval(theirs, here)
        found = eval(ours, {**here, "gaussian_features": gaussian_features, "bilateral_features": bilateral_features})
        assert np.array_equal(found, feats)
        reference.addPairwiseEnergy(np.ascontiguousarray(feats.T), compat)
        crf.add_kernel(found, compat)
        swapped.add_kernel(found[:, [1, 0, *range(2, found.shape[1])]], compat)
    labels = np.argmax(reference.inference(5), axis=0).reshape(240, 320)
    assert np.array_equal(crf.inference(5).argmax(0), labels)
    assert (swapped.inference(5).argmax(0) != labels).mean() > 1e-4  # the order is what makes them equal


def test_features_of_grids_of_any_dimension_and_without_channels_are_those_of_pydensecrf(names):
    volume = np.random.default_rng(0).normal(0, 50, (4, 5, 6))
    for s, t, img, chdim in (
        ((3, 2, 5), 7, volume, -1), ((3, 2), (1, 2, 3, 4), volume, 0), ((3, 2), 0.3, volume, 1), ((3, 2), 2, volume[0], -1),
    ):  # fmt: skip
        theirs = names["create_pairwise_bilateral"](s, t, img, chdim)
        assert np.array_equal(bilateral_features(s, t, img, chdim), theirs.T)
    assert np.array_equal(
        gaussian_features((3, 2, 5), (4, 5, 6)), names["create_pairwise_gaussian"]((3, 2, 5), (4, 5, 6)).T
    )
    with pytest.raises(UserError, match="chdim is 3"):
        bilateral_features(3, 3, volume, 3)
    with pytest.raises(UserError, match="px is"):
        gaussian_features((3, 2), (4, 5, 6))


def test_every_normalisation_named_is_there(names):
    ((theirs, ours),) = calls("normalization=")
    assert theirs.partition("=")[2] in names
    crf = DenseCRF.from_probs(names["probs"])
    for name in re.findall(r'"(\w+)"', ours):
        crf.add_gaussian(3, 3, name)
