"""Enlargement for the GPU: by torch, by Triton's interpreter in a process of its own, and on a device if there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.predict import upsample_torch

ROOT = Path(__file__).parent.parent
SIZES = [
    ((9, 13), (36, 52), (36, 52)),
    ((9, 13), (36, 52), (31, 47)),
    ((9, 13), (65, 97), (65, 97)),
    ((1, 1), (8, 8), (5, 8)),
    ((8, 8), (8, 8), (8, 8)),
    ((3, 65), (7, 129), (7, 129)),  # one row and one column more than blocks hold
    ((2, 1), (17, 1), (17, 1)),
    ((40, 30), (20, 15), (20, 15)),  # made smaller
]


def check_enlargement(argmax, confidence, device, sizes=SIZES, num_classes=19):
    """Labels are torch's, or of two classes that are equal to the last bits; confidence is that of torch's softmax, rounded."""
    for small, full, size in sizes:
        random = torch.randn(num_classes, *small, generator=torch.Generator().manual_seed(1)).to(device)
        smooth = F.interpolate(random[None, :, :2, :2], small, mode="bilinear")[0] * 4
        smooth[num_classes // 6, : small[0] // 2] += 20  # whole blocks with one winner
        for scores in (random, smooth, smooth.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
            large = F.interpolate(scores[None], full, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
            found = argmax(scores, full, size)
            assert found.shape == size and found.dtype == torch.uint8
            best = large.amax(dim=0)
            mine = large.gather(0, found.long()[None])[0]
            assert (found != large.argmax(dim=0)).float().mean() < 1e-3
            assert torch.allclose(best, mine, atol=1e-5)
            sure = confidence(scores, full, size)
            assert sure.shape == size and sure.dtype == torch.uint8
            assert (sure / 255 - large.softmax(dim=0).amax(dim=0)).abs().max() <= 0.5 / 255 + 1e-5
    equal = torch.zeros(5, 3, 3, device=device)
    assert argmax(equal, (12, 12), (12, 12)).max() == 0  # of equals the lowest


def check_kernels(device):
    from pipeline.predict.upsample_gpu import enlarge_argmax_gpu, enlarge_confidence_gpu

    kernels = enlarge_argmax_gpu, enlarge_confidence_gpu
    check_enlargement(*kernels, device)
    for num_classes in (1, 2, 21, 171):
        check_enlargement(*kernels, device, SIZES[1:5:3], num_classes)


def check_offsets():
    """Beyond 2^31 numbers: the memory is taken from the system where it is touched alone."""
    from pipeline.predict import upsample_gpu

    far = (1 << 30) + 8
    scores = torch.empty(2 * far + 16).as_strided((3, 4, 4), (far, 4, 1))
    scores.copy_(torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1)))
    check = upsample_gpu.enlarge_argmax_gpu, upsample_gpu.enlarge_confidence_gpu
    for far_apart, together in ((work(scores, (8, 8), (8, 8)), work(scores.clone(), (8, 8), (8, 8))) for work in check):
        assert torch.equal(far_apart, together)
    rows = scores.permute(1, 0, 2)  # and where it is rows that lie far apart: (4, 3, 4)
    for far_apart, together in ((work(rows, (6, 8), (6, 8)), work(rows.clone(), (6, 8), (6, 8))) for work in check):
        assert torch.equal(far_apart, together)

    wide, blocks = 1 << 29, {"block_h": upsample_gpu.BLOCK_H, "block_w": upsample_gpu.BLOCK_W}
    small, sizes = torch.randn(3, 4, 4), (4, 4, 8, wide, 0.5, 4 / wide)
    for kernel, given, constants in (
        (upsample_gpu._enlarge, (small, small.argmax(0).to(torch.uint8)), {}),
        (upsample_gpu._enlarge_confidence, (small,), {"levels": 255}),
    ):
        large = torch.empty(8, wide, dtype=torch.uint8)
        kernel[(1, 1)](*given, large, *small.stride(), *sizes, classes=3, **constants, **blocks)
        tall = torch.empty(8, 64, dtype=torch.uint8)
        kernel[(1, 1)](*given, tall, *small.stride(), 4, 4, 8, 64, 0.5, 4 / wide, classes=3, **constants, **blocks)
        assert torch.equal(large[:, :64], tall)


def in_the_interpreter(check):
    """Triton reads TRITON_INTERPRET when kernels are defined, so in a process of its own."""
    pytest.importorskip("triton")
    child = subprocess.run(
        [sys.executable, "-c", f"from tests import test_enlarge_gpu; test_enlarge_gpu.{check}"],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.mark.slow
def test_the_kernels_give_torchs_labels_in_tritons_interpreter():
    in_the_interpreter("check_kernels('cpu')")


@pytest.mark.slow
def test_offsets_pass_2_to_the_31_in_tritons_interpreter():
    in_the_interpreter("check_offsets()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernels_give_torchs_labels_on_a_device():
    check_kernels("cuda")


@pytest.mark.parametrize("at_once", [1, 5000, 1 << 24])  # a row, some rows, all of them
def test_torchs_operations_give_the_same_a_few_rows_at_a_time(at_once, monkeypatch):
    monkeypatch.setattr(upsample_torch, "NUMBERS_AT_ONCE", at_once)
    for num_classes in (1, 2, 19, 171):
        check_enlargement(
            upsample_torch.enlarge_argmax_torch, upsample_torch.enlarge_confidence_torch, "cpu", num_classes=num_classes
        )
