import warnings
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from pipeline.config import UpsamplingName
from pipeline.models.upsampling import Upsample, bed_of_nails, bilinear_kernel


@pytest.mark.parametrize("name", get_args(UpsamplingName))
@pytest.mark.parametrize("factor", [2, 4])
def test_every_way_enlarges_by_its_factor_and_may_change_channels(name, factor):
    x = torch.randn(1, 4, 6, 8)
    pooled, indices = F.max_pool2d(torch.randn(1, 4, 6 * factor, 8 * factor), factor, return_indices=True)
    out = 4 if name == "transposed_fixed" else 3
    y = Upsample(name, 4, out, factor)(pooled if name == "max_unpooling" else x, indices)
    assert y.shape == (1, out, 6 * factor, 8 * factor)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_a_transposed_convolution_starts_as_bilinear_interpolation_away_from_the_border(factor):
    x = torch.randn(2, 3, 7, 9)
    ours = Upsample("transposed", 3, 3, factor)(x)
    exact = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inside = slice(factor // 2, -(factor // 2))
    assert torch.allclose(ours[..., inside, inside], exact[..., inside, inside], atol=1e-5)


def test_the_bilinear_kernel_is_a_triangle():
    assert bilinear_kernel(1, 4)[0, 0, 0].tolist() == pytest.approx([v * 0.25 for v in (0.25, 0.75, 0.75, 0.25)])
    assert bilinear_kernel(1, 3)[0, 0, 1].tolist() == [0.5, 1.0, 0.5]
    assert bilinear_kernel(2, 4)[0, 1].abs().sum() == 0  # no channel reaches another


def test_a_strided_transposed_convolution_is_zero_insertion_then_convolution():
    """Dumoulin & Visin, arXiv:1603.07285, section 4."""
    conv = torch.nn.ConvTranspose2d(3, 2, kernel_size=5, stride=3, bias=False)
    x = torch.randn(1, 3, 4, 6)
    holes = torch.zeros(1, 3, 3 * 4 - 2, 3 * 6 - 2)
    holes[..., ::3, ::3] = x
    flipped = conv.weight.flip(-1, -2).transpose(0, 1)
    assert torch.allclose(conv(x), F.conv2d(holes, flipped, padding=4), atol=1e-5)


def test_a_kernel_that_is_no_multiple_of_the_stride_warns_of_a_checkerboard():
    with pytest.warns(UserWarning, match="kernel 3 is not a multiple of stride 2.*4 would not"):
        Upsample("transposed", 1, 1, 2, kernel=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Upsample("transposed", 1, 1, 2, kernel=4)


def test_such_a_kernel_does_draw_one():
    """Each output pixel of a constant gets as many weights as reach it: equal where the kernel is a multiple of the stride."""
    ones = torch.ones(1, 1, 8, 8)
    smooth = F.conv_transpose2d(ones, torch.ones(1, 1, 4, 4), stride=2)[..., 4:-4, 4:-4]
    uneven = F.conv_transpose2d(ones, torch.ones(1, 1, 3, 3), stride=2)[..., 4:-4, 4:-4]
    assert smooth.unique().tolist() == [4]
    assert uneven.unique().tolist() == [1, 2, 4]


def test_bed_of_nails_puts_each_value_once():
    nails = bed_of_nails(torch.tensor([[[[1.0, 2.0]]]]), 3)
    assert nails[0, 0].tolist() == [[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0]]


def test_max_unpooling_puts_values_back_where_they_were():
    x = torch.tensor([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]]])
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    back = Upsample("max_unpooling", 1, 1, 2)(pooled, indices)
    assert back[0, 0].tolist() == [[0, 5, 0, 0], [0, 0, 8, 0]]


def test_nearest_repeats_values():
    y = Upsample("nearest", 1, 1, 2)(torch.tensor([[[[1.0, 2.0]]]]))
    assert y[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_bicubic_keeps_a_constant_and_overshoots_at_a_step():
    up = Upsample("bicubic", 1, 1, 4)
    assert torch.allclose(up(torch.full((1, 1, 5, 5), 3.0)), torch.full((1, 1, 20, 20), 3.0), atol=1e-5)
    step = (torch.arange(8.0) >= 4).float().expand(1, 1, 8, 8)
    assert up(step).max() > 1.01 and Upsample("bilinear", 1, 1, 4)(step).max() <= 1


def test_a_fixed_transposed_convolution_has_nothing_to_learn():
    assert not any(p.requires_grad for p in Upsample("transposed_fixed", 3, 3, 2).parameters())
    assert all(p.requires_grad for p in Upsample("transposed", 3, 3, 2).parameters())


def test_an_unknown_way_lists_the_known_ones():
    with pytest.raises(ValueError, match="upsampling 'magic' is unknown; choose one of nearest, bed_of_nails"):
        Upsample("magic", 1, 1, 2)
