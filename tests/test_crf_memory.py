"""Memory that the device path allocates, by torch's profiler on CPU tensors, stays below its model's figure, but near it.

Triton's kernels allocate nothing; the code around them does, and runs here without them: `gpu_kernels.launches`.
"""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.crf.gpu import dense_crf_batch, inference, torch_steps
from pipeline.crf.gpu.inference import steps_for
from pipeline.crf.gpu.lattice import build_lattice
from pipeline.crf.gpu.memory import most_bytes
from pipeline.synthetic.street import draw_scene
from tests.crf_cases import SHARP

NARROW = SHARP.model_copy(
    update={"smooth_px": 0.3, "colour_px": 2, "colour_levels": 1}
)  # nearly a vertex for each corner
SMOOTH, COLOUR = (SHARP.model_copy(update={name: 0}) for name in ("colour_weight", "smooth_weight"))


def peak_bytes(work):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        kept = work()
    events = [event for event in told.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert kept is not None and events
    return max(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]))


def given(kind, num_images, height, width, num_classes):
    """Random probs, and images of a kind."""
    rng = np.random.default_rng(0)
    match kind:
        case "flat":
            images = np.full((num_images, height, width, 3), 80, np.uint8)
        case "noise":
            images = rng.integers(0, 256, (num_images, height, width, 3), np.uint8)
        case _:
            images = np.stack([draw_scene(rng, height, width)[0] for _ in range(num_images)])
    probs = torch.rand(num_images, num_classes, height, width).softmax(dim=1)
    return probs, torch.from_numpy(images)


def assert_bounded(probs, images, cfg, steps):
    """The bound of the vertices that there are, and that of as many as there can be; returns vertices over corners."""
    lattice = build_lattice(inference.kernels_of(images, cfg), torch_steps)
    rows, corners = len(lattice.rows.start) - 1, lattice.vertex.shape[1]
    del lattice
    points = probs[:, 0].numel()
    cfg = cfg.model_copy(update={"iterations": 3})
    inference.steps_for = lambda device: steps
    try:
        if steps is torch_steps:
            measured = peak_bytes(lambda: dense_crf_batch(probs, images, cfg))
        else:
            gpu_kernels = pytest.importorskip("tests.bench.gpu_kernels")
            measured = peak_bytes(lambda: gpu_kernels.launches(lambda: dense_crf_batch(probs, images, cfg), steps))
    finally:
        inference.steps_for = steps_for
    bound = most_bytes(points, probs.shape[1], corners, steps, rows)
    assert 0.6 * bound < measured <= bound
    assert bound <= most_bytes(points, probs.shape[1], corners, steps)
    return rows / (points * corners)


@pytest.fixture(params=["torch", "triton"])
def steps(request):
    if request.param == "torch":
        return torch_steps
    return pytest.importorskip("pipeline.crf.gpu.triton_steps")


@pytest.mark.parametrize("kind", ["flat", "scene", "noise"])
@pytest.mark.parametrize("size", [(1, 100, 160, 2), (1, 100, 160, 19), (3, 61, 81, 19), (1, 80, 100, 60)])
def test_a_batch_takes_what_the_model_says(kind, size, steps):
    assert_bounded(*given(kind, *size), SHARP, steps)


@pytest.mark.parametrize("cfg", [NARROW, SMOOTH, COLOUR], ids=["narrow", "smoothness alone", "appearance alone"])
@pytest.mark.parametrize("kind", ["scene", "noise"])
def test_it_does_so_with_other_kernels(kind, cfg, steps):
    share = assert_bounded(*given(kind, 2, 64, 80, 19), cfg, steps)
    assert share > 0.8 or (kind, cfg) != ("noise", NARROW)
