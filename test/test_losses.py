"""The losses, against their equations worked out by hand."""

import math

import pytest
import torch

from train.losses.photometric import (
    SSIM_C1,
    SSIM_C2,
    minimum_reprojection,
    photometric_error,
    ssim_error,
)
from train.losses.smoothness import edge_aware_smoothness


def test_equal_images_have_no_error():
    image = torch.rand(2, 3, 5, 6)
    torch.testing.assert_close(photometric_error(image, image), torch.zeros(2, 1, 5, 6))


def test_ssim_of_constant_images():
    # No variance: only the term of the means is left.
    x, y = (torch.full((1, 1, 4, 4), v, dtype=torch.float64) for v in (0.2, 0.6))
    ssim = (2 * 0.2 * 0.6 + SSIM_C1) / (0.2 ** 2 + 0.6 ** 2 + SSIM_C1)
    torch.testing.assert_close(ssim_error(x, y), torch.full_like(x, (1 - ssim) / 2))


def test_ssim_of_one_window_in_float64():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 3, 3, dtype=torch.float64, generator=generator)
    mean_x, mean_y = x.mean(), y.mean()
    var_x, var_y = x.var(correction=0), y.var(correction=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean()
    ssim = ((2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
            / ((mean_x ** 2 + mean_y ** 2 + SSIM_C1) * (var_x + var_y + SSIM_C2)))
    found = ssim_error(x[None, None], y[None, None])[0, 0, 1, 1]
    torch.testing.assert_close(found, ((1 - ssim) / 2).clamp(0, 1))


def test_weights_of_ssim_and_l1():
    x, y = torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.6)
    expected = 0.85 * ssim_error(x, y)[:, :1] + 0.15 * 0.4
    torch.testing.assert_close(photometric_error(x, y), expected)


def make_sources(*errors):
    """Sources that differ from a black target by constants, with their photometric errors."""
    target = torch.zeros(1, 3, 4, 4)
    sources = [torch.full_like(target, e) for e in errors]
    return sources, target, [photometric_error(s, target)[0, 0, 0, 0] for s in sources]


def test_the_better_source_counts():
    sources, target, (worse, better) = make_sources(0.5, 0.1)
    everywhere = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    identity = torch.full((1, 1, 4, 4), 1.0)
    loss, mask = minimum_reprojection(sources, [everywhere] * 2, identity, target)
    torch.testing.assert_close(loss, better)
    assert mask.all() and worse > better


def test_a_source_that_does_not_see_a_pixel_cannot_win_it():
    sources, target, (worse, better) = make_sources(0.5, 0.1)
    everywhere = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    left = everywhere.clone()
    left[..., 2:] = False
    identity = torch.full((1, 1, 4, 4), 1.0)
    loss, _ = minimum_reprojection(sources, [everywhere, left], identity, target)
    torch.testing.assert_close(loss, (worse + better) / 2)


def test_pixels_that_standing_still_explains_are_masked():
    sources, target, (error,) = make_sources(0.5)
    sources[0].requires_grad_()
    everywhere = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    identity = torch.full((1, 1, 4, 4), 1.0)
    identity[..., :2] = 0
    loss, mask = minimum_reprojection(sources, [everywhere], identity, target)
    torch.testing.assert_close(loss, error / 2)
    assert not mask[..., :2].any() and mask[..., 2:].all()
    loss.backward()
    # Windows reach one pixel across: beyond, masked pixels move nothing.
    assert (sources[0].grad[..., 0] == 0).all() and (sources[0].grad[..., 3] != 0).all()


def test_seeing_nothing_is_an_error_not_zero():
    sources, target, _ = make_sources(0.5)
    nowhere = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match='no pixel'):
        minimum_reprojection(sources, [nowhere], torch.ones(1, 1, 4, 4), target)


def test_photometric_error_has_the_right_gradient():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(2, 1, 3, 4, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: photometric_error(x, y), x.requires_grad_())


def test_smoothness_by_hand():
    disparity = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])  # mean 2: normalised 0.5 and 1.5
    flat = torch.zeros(1, 3, 2, 2)
    torch.testing.assert_close(edge_aware_smoothness(disparity, flat), torch.tensor(1.0))
    edge = flat.clone()
    edge[..., 1] = 1.0  # an image edge of height 1 where the disparity jumps
    torch.testing.assert_close(
        edge_aware_smoothness(disparity, edge), torch.tensor(math.exp(-1)))
    torch.testing.assert_close(  # scale does not matter
        edge_aware_smoothness(7 * disparity, edge), torch.tensor(math.exp(-1)))
