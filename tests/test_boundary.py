"""Boundary counts equal the definitions, computed slowly, class by class, on small masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels import IGNORE
from pipeline.metrics.boundary import ROWS, boundary_f, boundary_iou, count_boundary, trimap_iou


def near(found, width):
    """Dilation by a square window of (2 width + 1)^2."""
    padded = np.pad(found, width)
    height, columns = found.shape
    shifts = range(2 * width + 1)
    return np.any([padded[v : v + height, u : u + columns] for v in shifts for u in shifts], axis=0)


def band(region, width):
    """Pixels of one class within `width` of its edge: what an erosion takes away, as in the reference code."""
    return region & near(~np.pad(region, width), width)[width:-width, width:-width]


def slow(label, mask, num_classes, width):
    """The ten rows by their definitions, one class at a time."""
    valid = label != IGNORE
    mask = np.where(valid, mask, IGNORE)
    rows = np.zeros((len(ROWS), num_classes), int)
    trimap = sum(near(label == i, width).astype(int) for i in np.unique(label)) > 1
    for c in range(num_classes):
        truth, found = label == c, mask == c
        bands = band(found, width), band(truth, width)
        contours = [mine & near((whole != c) & valid, 1) for mine, whole in ((found, mask), (truth, label))]
        rows[:, c] = [
            (bands[0] & bands[1]).sum(), bands[0].sum(), bands[1].sum(),
            contours[0].sum(), (contours[0] & near(contours[1], width)).sum(),
            contours[1].sum(), (contours[1] & near(contours[0], width)).sum(),
            (trimap & truth & found).sum(), (trimap & found & valid).sum(), (trimap & truth).sum(),
        ]  # fmt: skip
    return rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_all_classes_at_once_equal_the_definitions_class_by_class(height, width, block, band_px, seed):
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1, 2, 5, IGNORE], np.uint8)
    label = np.kron(rng.choice(ids, (height, width)), np.ones((block, block), np.uint8))
    mask = np.kron(rng.choice(ids[:4], (height, width)), np.ones((block, block), np.uint8))
    counts = count_boundary(label, mask, 6, (band_px, band_px + 1))
    assert counts[0].tolist() == slow(label, mask, 6, band_px).tolist()
    assert counts[1].tolist() == slow(label, mask, 6, band_px + 1).tolist()


def test_a_mask_of_classes_2_and_5_never_scores_class_3():
    label = np.full((12, 12), 2, np.uint8)
    label[:, 6:] = 5
    (counts,) = count_boundary(label, np.roll(label, 1, axis=1), 6, (2,))
    assert counts[:, [0, 1, 3, 4]].sum() == 0
    for score in (boundary_iou, boundary_f, trimap_iou):
        assert np.isnan(score(counts)[[0, 1, 3, 4]]).all()
        assert (score(counts)[[2, 5]] > 0).all()


def test_an_edge_that_is_one_pixel_off_scores_as_drawn_on_paper():
    label, mask = np.array([[0] * 4 + [1] * 4] * 9, np.uint8), np.array([[0] * 5 + [1] * 3] * 9, np.uint8)
    (counts,) = count_boundary(label, mask, 2, (1,))
    # Class 0, band of one pixel: truth 9x4 without its inner 7x2, prediction 9x5 without its inner 7x3;
    # both bands share the left column, columns 2 to 4 of the first and last row: 9 + 2 * 3.
    assert counts[:3, 0].tolist() == [15, 45 - 21, 36 - 14]
    # Contours are the columns beside the edge, each within one pixel of the other's.
    assert counts[3:7].tolist() == [[9, 9]] * 4
    # Trimap: columns 4 and 5 (from 1), of which the fifth is predicted 0 and labelled 1.
    assert counts[7:].tolist() == [[9, 0], [18, 0], [9, 9]]
    assert boundary_iou(counts)[0] == 15 / (24 + 22 - 15)
    assert boundary_f(counts).tolist() == [1, 1]
    assert trimap_iou(counts).tolist() == [0.5, 0]


def test_a_perfect_mask_scores_one_at_every_width_and_ignored_pixels_count_nowhere():
    label = np.kron(np.random.default_rng(0).integers(0, 3, (5, 5)), np.ones((4, 4))).astype(np.uint8)
    label[5:9, 3:12] = IGNORE
    mask = np.where(label == IGNORE, 1, label).astype(np.uint8)
    for counts in count_boundary(label, mask, 3, (1, 3, 7)):
        for score in (boundary_iou, boundary_f, trimap_iou):
            assert score(counts).tolist() == [1, 1, 1]
    assert counts[2].sum() == (label != IGNORE).sum()  # at seven pixels all is near an edge


def test_what_is_no_width_is_refused():
    with pytest.raises(ValueError, match=r"band widths \[0\] px: each must be 1 to 254"):
        count_boundary(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 2, (0,))
    with pytest.raises(ValueError, match="differ in size"):
        count_boundary(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2, (1,))
