"""Check the Triton kernels of the dense CRF without a GPU, interpreted on CPU tensors.

`TRITON_INTERPRET=1 python -m tests.device_kernels` compares each step with torch's on small tables, and whole inferences too.
"""

import os

import numpy as np
import torch

from pipeline.crf.gpu import inference, torch_steps
from pipeline.crf.gpu.steps import Sums, padded
from tests.crf_cases import SOFT, noisy_probs

# (classes, images, pixels of each, rows). Classes: padding of 3, 2, 3, 1, 3, 1 and 1; the last two have more than one block of
# columns. Pixels and rows: one, one more and one fewer than blocks hold, multiples of 16 and not.
CASES = [(1, 2, 21, 37), (2, 1, 1, 1), (2, 3, 257, 255), (5, 1, 65, 129), (19, 2, 16, 33), (19, 1, 33, 32), (21, 2, 31, 17),
         (35, 2, 21, 37), (171, 1, 17, 3)]  # fmt: skip
FAR = (1 << 29) + 8  # rows of 4 numbers: 2^31 are passed


def _tables(num_classes: int, num_images: int, num_pixels: int, num_rows: int) -> dict[str, torch.Tensor]:
    """Random tables."""
    rng = torch.Generator().manual_seed(num_classes)
    columns, points = padded(num_classes), num_images * num_pixels

    def ids(shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=rng, dtype=torch.int32)

    # Sums of none, one, few and many entries.
    start = torch.tensor([0, 0, 1, 4, 70, 70, 75], dtype=torch.int32)
    scores = torch.randn(points, columns, generator=rng) * 3
    scores[:, num_classes:] = -1e4
    shape = num_images, num_classes, num_pixels
    return {
        "source": torch.rand(shape, generator=rng) * (torch.rand(shape, generator=rng) > 0.2),
        "scores": scores,
        "values": torch.randn(num_rows, columns, generator=rng),
        "index": ids((75,), 0, num_rows),
        "share": torch.rand(75, generator=rng),
        "start": start,
        "neighbours": ids((2, num_rows), -1, num_rows),
        "vertex": ids((points, 9), 0, num_rows),
        "weight": torch.rand(points, 9, generator=rng),
        "factors": torch.rand(columns, generator=rng),
    }


def _assert_steps_equal(num_classes: int, num_images: int, num_pixels: int, num_rows: int) -> None:
    from pipeline.crf.gpu import triton_steps

    t = _tables(num_classes, num_images, num_pixels, num_rows)
    sums = Sums(t["index"], t["share"], t["start"])
    corners = t["values"], t["vertex"], t["weight"], t["scores"]
    # Kernels of one kind alone have 3 or 6 corners.
    few = t["values"], t["vertex"][:, :3].contiguous(), t["weight"][:, :3].contiguous(), t["scores"]
    shape = num_images, num_classes, num_pixels
    pairs = []
    for steps in (torch_steps, triton_steps):
        pairs.append(
            [
                *steps.open(t["source"], True),
                *steps.open(t["source"], False),
                steps.add_up(t["values"], sums),
                steps.blur(t["values"], t["neighbours"]),
                steps.update(*corners, None),
                steps.update(*corners, t["factors"]),
                steps.update(*few, None),
                steps.close(*corners, None, shape),
                steps.close(*corners, t["factors"], shape),
            ]
        )
    for theirs, ours in zip(*pairs, strict=True):
        assert ours.shape == theirs.shape and ours.is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def _assert_far_rows_are_read() -> None:
    """A table of which the system gives memory for the rows that are touched alone."""
    from pipeline.crf.gpu import triton_steps

    near, far = torch.randn(3, 4), torch.empty(FAR, 4)
    places = torch.tensor([0, FAR // 2, FAR - 1])
    far[places] = near
    vertex, weight, scores = torch.tensor([[0, 2], [1, 1], [2, 0]]).int(), torch.rand(3, 2), torch.randn(3, 4)
    start = torch.tensor([0, 1, 2, 3]).int()
    for table, rows in ((near, torch.arange(3)), (far, places)):
        sums = triton_steps.add_up(table, Sums(rows.int(), weight[:, 0].contiguous(), start))
        updated = triton_steps.update(table, rows[vertex].int(), weight, scores, None)
        if table is near:
            expected = sums, updated
    assert torch.equal(sums, expected[0]) and torch.equal(updated, expected[1])


def _assert_inference_equal() -> None:
    """Two images of 7 x 9 (pixels that are no multiple of 4), of which one is flat: a vertex of many pieces."""
    from pipeline.crf.gpu import triton_steps

    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, 60, (7, 9, 3)), np.full((7, 9, 3), 80)]).astype(np.uint8)
    probs = np.stack([noisy_probs(rng.integers(0, 3, (7, 9)), 3, seed) for seed in range(2)])
    cfg = SOFT.model_copy(update={"iterations": 2})
    weighted = cfg.model_copy(update={"class_weights": {"b": 0.3}})
    found = []
    for steps in (torch_steps, triton_steps):
        inference.steps_for = lambda device, steps=steps: steps
        given = torch.from_numpy(probs), torch.from_numpy(images)
        found.append([inference.dense_crf_batch(*given, one, ("a", "b", "c")) for one in (cfg, weighted)])
    assert (found[0][0] - torch.from_numpy(probs)).abs().max() > 0.1
    assert (found[0][1] - found[0][0]).abs().max() > 0.1
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-6


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "run it with TRITON_INTERPRET=1"
    for one in CASES:
        _assert_steps_equal(*one)
    _assert_far_rows_are_read()
    _assert_inference_equal()
    print(f"{len(CASES)} cases are equal")
