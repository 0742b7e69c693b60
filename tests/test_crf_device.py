"""The device path is as exact as the CPU path; its Triton kernels run interpreted, and on a device if there is one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.crf import dense_crf
from pipeline.crf.cpu.lattice import build_lattice as build_on_cpu
from pipeline.crf.cpu.lattice import packing
from pipeline.crf.cpu.threads import Team
from pipeline.crf.gpu import dense_crf_batch, inference, lattice, sharpen, torch_steps
from pipeline.crf.gpu.lattice import Kernel, build_lattice
from pipeline.crf.gpu.memory import most_bytes
from pipeline.synthetic.street import draw_scene
from tests.brute_force import brute_force
from tests.conftest import ROOT
from tests.crf_cases import SHARP, SOFT, noisy_probs, on_device, photograph, smooth_probs
from tests.device_kernels import CASES

SETTINGS = pytest.mark.parametrize("cfg", [SHARP, SOFT], ids=["sharp", "soft"])
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.fixture(autouse=True)
def _skip_what_is_not_here(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def assert_as_on_the_cpu(probs, image, cfg, device):
    ours, theirs = on_device(probs, image, cfg, device), dense_crf(probs, image, cfg, num_threads=2)
    assert (theirs.argmax(0) != probs.argmax(0)).mean() > 0.001  # it did something
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.99999
    assert np.abs(ours - theirs).max() <= 1e-5


@DEVICES
@SETTINGS
@pytest.mark.parametrize("num_classes", [5, 19, 150])
def test_it_equals_the_cpu_path_on_smooth_scores_of_a_photograph(camvid, cfg, num_classes, device):
    image, label = photograph(camvid, 30)
    image, label = image[120:240, 100:261], label[120:240, 100:261].astype(int)
    assert_as_on_the_cpu(smooth_probs(label * 13 % num_classes, num_classes), image, cfg, device)


@DEVICES
@SETTINGS
def test_it_equals_the_cpu_path_on_noisy_scores_of_a_drawn_scene(cfg, device):
    image, label = draw_scene(np.random.default_rng(3), 96, 160)
    assert_as_on_the_cpu(noisy_probs(label // 5, 7), image, cfg, device)


@DEVICES
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (5, 5), (33, 131), (65, 3)])
def test_odd_sizes_and_the_dark(size, device):
    # Not a multiple of 4 pixels: vertices at features 0 that no pixel touches.
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size).transpose(2, 0, 1).astype(np.float32)
    image = rng.integers(0, 30, (*size, 3), np.uint8)
    assert np.abs(on_device(probs, image, SOFT, device) - dense_crf(probs, image, SOFT)).max() <= 1e-5


@pytest.fixture
def batch():
    scenes = [draw_scene(np.random.default_rng(seed), 45, 70) for seed in range(3)]
    probs = np.stack([noisy_probs(label // 5, 7) for _, label in scenes])
    return torch.from_numpy(probs), torch.from_numpy(np.stack([image for image, _ in scenes]))


@DEVICES
@pytest.mark.parametrize("limit", ["BYTES_AT_ONCE", "IMAGES_AT_ONCE"])
def test_an_image_gets_the_same_bits_in_any_batch(batch, limit, device, monkeypatch):
    probs, images = (one.to(device) for one in batch)
    whole = dense_crf_batch(probs, images, SHARP)
    assert torch.equal(dense_crf_batch(probs, images, SHARP), whole)
    assert torch.equal(dense_crf_batch(probs.flip(0), images.flip(0), SHARP).flip(0), whole)
    sizes = []
    two = {"BYTES_AT_ONCE": most_bytes(2 * 45 * 70, 7, 9, inference.steps_for(probs.device)), "IMAGES_AT_ONCE": 2}
    monkeypatch.setattr(inference, limit, two[limit])
    infer = inference.infer
    monkeypatch.setattr(inference, "infer", lambda some, *rest: sizes.append(len(some)) or infer(some, *rest))
    assert torch.equal(dense_crf_batch(probs, images, SHARP), whole)
    assert sizes == [2, 1]


@pytest.mark.parametrize("d", [1, 2, 4, 5])
def test_corners_weights_and_neighbours_are_those_of_the_cpu_path(d):
    points = np.random.default_rng(d).normal(0, 3, (d, 1, 501)).astype(np.float32)
    ends = np.stack([np.minimum(points.min(axis=(1, 2)), 0), np.maximum(points.max(axis=(1, 2)), 0)], axis=1)
    ours = build_lattice([Kernel(torch.from_numpy(points), ends, 1.0)], torch_steps)
    padded = np.zeros((d, 504), np.float32)
    padded[:, :501] = points[:, 0]
    theirs = build_on_cpu(Team(1), [padded], 501)
    assert len(ours.rows.start) - 1 == theirs.num_rows  # one band: no ghosts
    # Rows are numbered alike: in the order in which the pixels meet them.
    assert np.array_equal(ours.vertex.numpy(), theirs.vertex)
    response = theirs.response[0].astype(np.float64)
    factor = np.sqrt(1 / (1 + 2.0**-d)) / np.sqrt(response)
    assert ours.weight.numpy() == pytest.approx(theirs.weight * factor[:, None], rel=1e-5, abs=1e-7)
    for (ahead, behind), sweep in zip(ours.neighbours, theirs.sweeps, strict=True):
        rows = np.where(sweep.rows < 0, ~sweep.rows, sweep.rows)[:-1]
        linked = sweep.rows[:-1] >= 0
        expected = np.full(theirs.num_rows, -1)
        expected[rows[:-1][linked[:-1]]] = rows[1:][linked[:-1]]
        assert np.array_equal(ahead.numpy(), expected)
        has = ahead >= 0
        assert torch.equal(behind[ahead[has].long()], torch.arange(len(ahead))[has].int())
        assert (behind >= 0).sum() == has.sum()


@pytest.mark.parametrize("piece", [1, 3, 32, 10_000])
def test_sums_do_not_depend_on_how_they_are_cut(batch, piece, monkeypatch):
    probs, images = batch
    expected = dense_crf_batch(probs, images, SOFT)
    monkeypatch.setattr(lattice, "PIECE", piece)
    assert (dense_crf_batch(probs, images, SOFT) - expected).abs().max() < 5e-6


def test_one_step_approximates_the_sum_over_all_pairs():
    image, label = draw_scene(np.random.default_rng(5), 24, 32)
    probs = noisy_probs(label // 8, 5).reshape(1, 5, -1)
    y, x = np.mgrid[:24, :32].reshape(2, -1).astype(np.float32)
    features = np.stack([x / 8, y / 8, *(image.reshape(-1, 3).T.astype(np.float32) / 30)])
    ends = np.stack([np.zeros(5, np.float32), features.max(axis=1)], axis=1)
    energies = torch.from_numpy(-np.log(np.clip(probs, 1e-5, 1)))
    kernel = Kernel(torch.from_numpy(features)[:, None], ends, 3.0)
    ours = inference.infer(energies, False, [kernel], 5, torch_steps)[0].numpy()
    exact = brute_force(energies[0].numpy().T, [(3.0, features.T)], 5).T
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.96
    assert np.abs(ours - exact).mean() < 0.03


def test_where_the_scores_are_decides_who_sharpens_them(batch):
    probs, images = batch
    assert np.array_equal(
        sharpen(probs[0], images[0].numpy(), SOFT, 2).numpy(), dense_crf(probs[0].numpy(), images[0].numpy(), SOFT)
    )


@pytest.mark.gpu
def test_scores_on_a_device_stay_there(batch):
    probs, images = batch
    sharpened = sharpen(probs[0].cuda(), images[0].numpy(), SOFT)
    assert sharpened.device.type == "cuda"
    assert (sharpened.cpu() - sharpen(probs[0], images[0].numpy(), SOFT)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda p, i: (p[0], i),
            r"probs are \(7, 45, 70\) and the images \(3, 45, 70, 3\); they must be \(N, C, H, W\)",
        ),
        (lambda p, i: (p, i[:2]), r"the images \(2, 45, 70, 3\)"),
        (lambda p, i: (p.double(), i), "probs are torch.float64"),
        (lambda p, i: (p, i.float()), "the images torch.float32; they must be float32, and uint8"),
        (lambda p, i: (p.to("meta"), i), "probs are on meta and the images on cpu; move one of them"),
        (lambda p, i: (p.index_fill(1, torch.tensor(2), torch.nan), i), "NaN"),
        (lambda p, i: (p.index_fill(1, torch.tensor(2), torch.inf), i), "infinity"),
        (lambda p, i: (-p, i), "negative"),
    ],
)
@pytest.mark.parametrize("iterations", [0, 2])
def test_what_is_no_probability_or_no_image_is_refused(batch, change, sentence, iterations):
    with pytest.raises(ValueError, match=sentence):
        dense_crf_batch(*change(*batch), SOFT.model_copy(update={"iterations": iterations}))


def test_widths_too_small_for_the_keys_are_refused(batch):
    with pytest.raises(ValueError, match=r"widths are too small: the lattice needs \d+ bits"):
        dense_crf_batch(*batch, SHARP.model_copy(update={"colour_levels": 0.05}))
    dense_crf_batch(*batch, SHARP.model_copy(update={"colour_levels": 0.1, "iterations": 1}))


def test_the_number_of_an_image_leaves_room_in_a_key():
    wide = np.stack([np.zeros(5), np.full(5, 900)], axis=1).astype(np.float32)
    assert lattice.most_images([wide]) == 2 ** (63 - packing(wide).bits) < 2**20


@pytest.mark.slow
def test_the_triton_kernels_equal_torch_in_the_interpreter(tmp_path):
    """In a process of its own: Triton reads TRITON_INTERPRET when kernels are defined."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.device_kernels"], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(CASES)} cases are equal"
