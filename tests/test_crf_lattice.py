"""The permutohedral lattice on the CPU."""

import numpy as np
import pytest

from pipeline.crf import DenseCRF
from pipeline.crf.cpu.blur import blur
from pipeline.crf.cpu.features import image_features, tile_order
from pipeline.crf.cpu.lattice import build_lattice
from pipeline.crf.cpu.mean_field import _take_exps, _take_logs
from pipeline.crf.cpu.tables import Layout
from pipeline.crf.cpu.threads import Team
from tests.crf_cases import photograph


@pytest.fixture
def small_lattice():
    features = np.zeros((5, 504), np.float32)
    features[:, :500] = np.random.default_rng(0).normal(0, 3, (5, 500))
    return lambda num_threads: build_lattice(Team(num_threads), [features, features[:2]], 500, most_woven=0)


def test_barycentric_weights_sum_to_one_and_rows_are_numbered_without_gaps(small_lattice):
    lattice = small_lattice(1)
    for columns in (slice(0, 6), slice(6, 9)):
        assert lattice.weight[:, columns].sum(axis=1) == pytest.approx(np.ones(500), abs=1e-4)
    assert lattice.weight.min() > -1e-4
    assert np.unique(lattice.vertex).tolist() == list(range(lattice.num_rows))


def test_a_row_is_in_at_most_one_chain_of_an_axis(small_lattice):
    for sweep in small_lattice(1).sweeps:
        rows = np.where(sweep.rows < 0, ~sweep.rows, sweep.rows)[:-1]
        assert len(np.unique(rows)) == len(rows)
        assert [stop for _, stop in sweep.parts][-1] == len(rows)


@pytest.mark.parametrize("num_classes", [3, 19, 70])
def test_axes_blurred_together_give_the_same_bits_as_one_after_the_other(camvid, num_classes):
    image, _ = photograph(camvid, 30)
    order, layout = tile_order(*image.shape[:2]), Layout.of(num_classes)
    found = []
    for num_threads, most_woven, sweeps in ((1, 0, 6), (1, 1 << 13, 2), (2, 1 << 13, 2), (3, 1 << 13, 2)):
        with Team(num_threads) as team:
            features = image_features(team, order, image, (67, 67), (3, 3, 3))
            lattice = build_lattice(team, [features], len(order), most_woven)
            assert len(lattice.sweeps) == sweeps
            values = np.random.default_rng(0).random(lattice.num_rows * layout.width, np.float32)
            blur(team, values, layout, lattice.sweeps, lattice.ghosts)
        found.append(values)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_rows_of_a_table_come_back_as_they_were_packed():
    for num_classes in (*range(1, 40), 64, 65, 150, 171):
        layout = Layout.of(num_classes)
        assert num_classes <= layout.width <= 1.06 * 8 * -(-num_classes // 8)
        rows = np.random.default_rng(0).random((5, layout.width), np.float32)
        assert np.array_equal(layout.unpack(layout.pack(rows)), rows)


def test_widths_too_small_for_the_lattice_keys_are_refused():
    crf = DenseCRF(np.zeros((2, 5, 10), np.float32))
    crf.add_kernel(np.random.default_rng(0).uniform(0, 1e5, (50, 5)), 3)
    with pytest.raises(ValueError, match="widths are too small"):
        crf.inference(1)


def test_logarithms_and_exponentials_are_as_close_as_float32_allows():
    values = np.concatenate([np.geomspace(2.0**-60, 1e30, 200_000), np.linspace(0.99, 1.01, 200_000)]).astype(
        np.float32
    )
    logarithms = values.copy()
    _take_logs(logarithms, np.float32(2.0**-60), len(values))
    exact = np.log(values.astype(np.float64))
    assert np.abs(logarithms - exact).max() < 4e-6  # of up to 69; half a unit in the last place is 3.8e-6
    assert (np.abs(logarithms - exact) <= 1.2e-7 * np.abs(exact)).all()
    powers = np.linspace(-75, 0, 200_000, dtype=np.float32)
    exact = np.exp(powers.astype(np.float64))
    _take_exps(powers)
    assert (np.abs(powers - exact) <= 1.2e-7 * exact).all()
