"""How much two images differ: SSIM and L1."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_C1 = 0.01 ** 2
SSIM_C2 = 0.03 ** 2


class PhotometricError:
    """w (1 - SSIM) / 2 + (1 - w) L1, averaged over colours (FSRE-Depth, eq. 2).

    The statistics of the target are computed once for all the images that are compared with it.

    Args:
        target: (B, C, H, W) in 0..1, at least 2x2.
        ssim_weight: w; without SSIM (0) this is the L1 error of SfMLearner.
    """

    def __init__(self, target: Tensor, ssim_weight: float = 0.85) -> None:
        self.target = target
        self.ssim_weight = ssim_weight
        if ssim_weight:
            self.mean, square = window_mean(torch.cat([target, target * target], 1)).chunk(2, 1)
            self.mean_squared = self.mean * self.mean
            self.variance = square - self.mean_squared

    def __call__(self, predicted: Tensor) -> Tensor:
        """Error (B, 1, H, W) of an image of the target's shape."""
        error = (predicted - self.target).abs().mean(1, keepdim=True)
        if self.ssim_weight:
            structural = self.ssim_error(predicted).mean(1, keepdim=True)
            error = self.ssim_weight * structural + (1 - self.ssim_weight) * error
        return error

    def ssim_error(self, predicted: Tensor) -> Tensor:
        """Structural dissimilarity (1 - SSIM) / 2 over 3x3 windows, (B, C, H, W) in 0..1."""
        mean, square, product = window_mean(
            torch.cat([predicted, predicted * predicted, predicted * self.target], 1)).chunk(3, 1)
        mean_squared, means = mean * mean, mean * self.mean
        variance, covariance = square - mean_squared, product - means
        quarter = ((means + SSIM_C1 / 2) * (covariance + SSIM_C2 / 2)
                   / ((mean_squared + (self.mean_squared + SSIM_C1))
                      * (variance + (self.variance + SSIM_C2))))
        return (0.5 - 2 * quarter).clamp(0, 1)


def window_mean(image: Tensor) -> Tensor:
    """Mean over the 3x3 window of each pixel (B, C, H, W), borders reflected."""
    return _WindowMean.apply(image)


class _WindowMean(torch.autograd.Function):
    """Shifted sums along each axis: on a CPU several times faster than ``avg_pool2d``."""

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        for axis in (-2, -1):
            image, before = _add_neighbours(image, axis), image
            # Beyond a border lies, mirrored, the pixel next to it: it counts twice.
            image.select(axis, 0).add_(before.select(axis, 1))
            image.select(axis, -1).add_(before.select(axis, -2))
        return image.div_(9)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        for axis in (-2, -1):
            gradient, before = _add_neighbours(gradient, axis), gradient
            gradient.select(axis, 1).add_(before.select(axis, 0))
            gradient.select(axis, -2).add_(before.select(axis, -1))
        return gradient.div_(9)


def _add_neighbours(image: Tensor, axis: int) -> Tensor:
    """Each pixel plus those before and after it along an axis; nothing beyond the borders."""
    last = image.shape[axis] - 1
    result = image.clone()
    result.narrow(axis, 1, last).add_(image.narrow(axis, 0, last))
    result.narrow(axis, 0, last).add_(image.narrow(axis, 1, last))
    return result
