"""The Triton kernels compiled for three generations of GPUs, without one: registers, offsets, and what needs recompiling."""

import re

import pytest
import torch

pytest.importorskip("triton")
from pipeline.crf.gpu import triton_steps
from pipeline.crf.gpu.steps import Sums, padded
from pipeline.predict import upsample_gpu
from tests.bench.gpu_kernels import CAPABILITIES, all_launches, compile_for, launches

# Registers of a thread, at most: 65 536 / (128 * 96) = 5 programs a multiprocessor; 2 where a row has 256 columns.
REGISTERS = {2: 96, 19: 96, 35: 128, 171: 192}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("num_classes", "capability"),
    [
        pytest.param(num_classes, capability, marks=[] if (num_classes, capability) == (19, 90) else slow)
        for num_classes in REGISTERS
        for capability in CAPABILITIES
    ],
)
def test_no_kernel_spills_and_rows_are_read_16_bytes_at_once(num_classes, capability):
    found = list(all_launches(num_classes))
    assert len(found) == 10
    for purpose, launch in found:
        usage = compile_for(launch, capability)
        assert usage.spilled_bytes == 0, (launch.name, purpose)
        assert 0 < usage.registers <= REGISTERS[num_classes], (launch.name, purpose)
        assert usage.shared_bytes <= 16 << 10, (launch.name, purpose)
        if launch.kernel.fn.__module__ == triton_steps.__name__:
            assert usage.vector_loads > 0, (launch.name, purpose)


def products_of_sizes(ttir):
    """Products of 32 bits, neither factor of which is a constant."""
    constants = set(re.findall(r"(%\S+) = arith\.constant", ttir))
    products = re.findall(r"arith\.muli (%[^ ,]+), (%[^ ,]+)(?: overflow<\w+>)? : (?:tensor<[0-9x]*)?i32", ttir)
    return [pair for pair in products if not constants & set(pair)]


def test_no_offset_is_a_product_of_32_bits():
    """What remains are numbers of rows and of columns, times a constant: below 2^31 where the images are."""
    for purpose, launch in all_launches(19):
        ttir = compile_for(launch, 90).ttir
        assert "arith.muli" in ttir
        assert products_of_sizes(ttir) == [], (launch.name, purpose)


def test_a_product_of_32_bits_would_be_found():
    assert products_of_sizes("%c = arith.constant 4 : i32\n%a = arith.muli %w, %c : i32") == []
    assert (
        products_of_sizes("%a = arith.muli %y, %w : i64")
        == products_of_sizes("%a = arith.muli %y, %w : tensor<8x1xi64>")
        == []
    )
    assert products_of_sizes("%a = arith.muli %y, %w : i32") == [("%y", "%w")]
    assert products_of_sizes("%a = arith.muli %y, %w : tensor<8x1xi32>") == [("%y", "%w")]


def compiled_for(works):
    """Distinct machine codes that Triton would make."""
    found = [launch for work in works for launch in launches(work, triton_steps, upsample_gpu)]
    return len({(one.name, str(one.signature), str(one.constants), one.aligned) for one in found})


def table(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def crf_of(num_images, pixels, rows, num_classes=19):
    """All steps of a batch."""
    scores, values = table(num_images * pixels, padded(num_classes)), table(rows, padded(num_classes))
    ids = table(9 * pixels, dtype=torch.int32)
    corner = table(num_images * pixels, 9, dtype=torch.int32), table(num_images * pixels, 9), scores
    triton_steps.open(table(num_images, num_classes, pixels), True)
    triton_steps.add_up(scores, Sums(ids, table(9 * pixels), table(rows + 1, dtype=torch.int32)))
    triton_steps.add_up(table(pixels, 4), Sums(ids, table(9 * pixels), table(rows + 1, dtype=torch.int32)))
    triton_steps.blur(values, table(2, rows, dtype=torch.int32))
    triton_steps.update(values, *corner, None)
    triton_steps.close(values, *corner, None, (num_images, num_classes, pixels))


def test_the_crf_compiles_anew_only_where_the_pixels_are_a_multiple_of_16_or_not():
    sizes = [(1, 35, 7), (1, 163, 16), (3, 165, 33), (2, 1001, 1), (4, 12345, 4097)]
    assert compiled_for(lambda size=size: crf_of(*size) for size in sizes) == 6
    sizes += [(1, 16, 16), (1, 360 * 480, 142_262), (4, 1024 * 2048, 990_240)]
    assert compiled_for(lambda size=size: crf_of(*size) for size in sizes) == 6 + 3  # open, update, close
    assert compiled_for(lambda c=c: crf_of(1, 35, 7, c) for c in (17, 19, 20, 21, 31)) == 6


def test_enlargement_compiles_anew_only_where_the_width_is_a_multiple_of_16_or_not():
    def enlarged(height, width, stride, num_classes=19):
        scores = table(num_classes, -(-height // stride), -(-width // stride))
        for coarse in (scores, scores.as_strided(scores.shape, (1, scores.shape[2] * num_classes, num_classes))):
            upsample_gpu.enlarge_argmax_gpu(coarse, (height, width), (height, width))
            upsample_gpu.enlarge_confidence_gpu(coarse, (height, width), (height, width))

    sizes = [(37, 51, 4), (36, 33, 8), (1, 1001, 1), (128, 130, 16), (16, 17, 16)]
    assert compiled_for(lambda size=size: enlarged(*size) for size in sizes) == 2
    sizes += [(360, 480, 8), (1024, 2048, 4), (17, 16, 1)]
    assert compiled_for(lambda size=size: enlarged(*size) for size in sizes) == 4
    assert compiled_for(lambda c=c: enlarged(37, 51, 4, c) for c in (2, 19)) == 4
