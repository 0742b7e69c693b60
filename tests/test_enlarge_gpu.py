"""The GPU's enlargement: by Triton's interpreter on a CPU, in a process of its own, and on a device where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
SIZES = [
    ((9, 13), (36, 52), (36, 52)),
    ((9, 13), (36, 52), (31, 47)),
    ((9, 13), (65, 97), (65, 97)),
    ((1, 1), (8, 8), (5, 8)),
    ((8, 8), (8, 8), (8, 8)),
]


def check_kernel(device):
    """Labels are torch's, or of two classes that are equal to the last bits; confidence is that of torch's softmax, rounded."""
    from pipeline.predict.upsample_gpu import enlarge_argmax_gpu, enlarge_confidence_gpu

    for small, full, size in SIZES:
        random = torch.randn(19, *small, generator=torch.Generator().manual_seed(1)).to(device)
        smooth = F.interpolate(random[None, :, :2, :2], small, mode="bilinear")[0] * 4
        smooth[3, : small[0] // 2] += 20  # whole blocks with one winner
        for scores in (random, smooth, smooth.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
            large = F.interpolate(scores[None], full, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
            found = enlarge_argmax_gpu(scores, full, size)
            assert found.shape == size and found.dtype == torch.uint8
            best = large.amax(dim=0)
            mine = large.gather(0, found.long()[None])[0]
            assert (found != large.argmax(dim=0)).float().mean() < 1e-3
            assert torch.allclose(best, mine, atol=1e-5)
            sure = enlarge_confidence_gpu(scores, full, size)
            assert sure.shape == size and sure.dtype == torch.uint8
            assert (sure / 255 - large.softmax(dim=0).amax(dim=0)).abs().max() <= 0.5 / 255 + 1e-5
    assert (
        enlarge_argmax_gpu(torch.zeros(5, 3, 3, device=device), (12, 12), (12, 12)).max() == 0
    )  # of equals the lowest


@pytest.mark.slow
def test_the_kernel_gives_torchs_labels_in_tritons_interpreter():
    pytest.importorskip("triton")
    child = subprocess.run(
        [sys.executable, "-c", "from tests.test_enlarge_gpu import check_kernel; check_kernel('cpu')"],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernel_gives_torchs_labels_on_a_device():
    check_kernel("cuda")
