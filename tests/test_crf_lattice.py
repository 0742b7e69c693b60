"""The permutohedral lattice on the CPU."""

import numpy as np
import pytest

from pipeline.crf import DenseCRF
from pipeline.crf.cpu.lattice import build_lattice
from pipeline.crf.cpu.threads import Team


@pytest.fixture
def small_lattice():
    features = np.zeros((5, 504), np.float32)
    features[:, :500] = np.random.default_rng(0).normal(0, 3, (5, 500))
    return lambda num_threads: build_lattice(Team(num_threads), [features, features[:2]], 500)


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


def test_widths_too_small_for_the_lattice_keys_are_refused():
    crf = DenseCRF(np.zeros((2, 5, 10), np.float32))
    crf.add_kernel(np.random.default_rng(0).uniform(0, 1e5, (50, 5)), 3)
    with pytest.raises(ValueError, match="widths are too small"):
        crf.inference(1)
