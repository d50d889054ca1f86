"""How much two images differ: SSIM and L1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


class PhotometricLoss:
    """w (1 - SSIM) / 2 + (1 - w) L1, averaged over colours (FSRE-Depth, eq. 2).

    The target's statistics are computed once and used for all images that are compared with it.

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

    def __call__(self, predicted: Tensor, first: int = 0) -> Tensor:
        """Error (B, 1, h, W) of rows (B, C, h, W) of an image.

        The SSIM windows of the first and the last row are completed by reflection, even where these
        rows are not at the border of the image.

        Args:
            predicted: the rows.
            first: row of the target that the first of them belongs to.
        """
        rows = slice(first, first + predicted.shape[2])
        error = (predicted - self.target[:, :, rows]).abs().mean(1, keepdim=True)
        if self.ssim_weight:
            structural = self.ssim_error(predicted, first).mean(1, keepdim=True)
            error = self.ssim_weight * structural + (1 - self.ssim_weight) * error
        return error

    def ssim_error(self, predicted: Tensor, first: int = 0) -> Tensor:
        """Structural dissimilarity (1 - SSIM) / 2 over 3x3 windows, (B, C, h, W) in 0..1.

        The arguments are those of :meth:`__call__`.
        """
        rows = slice(first, first + predicted.shape[2])
        return _SsimError.apply(
            predicted,
            *(x[:, :, rows] for x in (self.target, self.mean, self.mean_squared, self.variance)),
        )


class _SsimError(torch.autograd.Function):
    """(1 - SSIM) / 2 of an image, given the statistics of the other, with a closed-form gradient.

    With the window's means m of the image x, q of x x and r of x y, and the target's m_y and v_y,

        SSIM = A B / (C D),  A = 2 m m_y + c1,        B = 2 (r - m m_y) + c2,
                             C = m^2 + m_y^2 + c1,    D = (q - m^2) + v_y + c2

    The error's derivatives by m, q and r are computed together with the error. Only they are kept,
    and far fewer images are written than if autograd differentiated each operation.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, y: Tensor, mean_y: Tensor, square_y: Tensor, variance_y: Tensor
    ) -> Tensor:
        channels = x.shape[1]
        moments = x.new_empty((len(x), 3 * channels, *x.shape[2:]))
        first, second, third = moments.split(channels, 1)
        first.copy_(x)
        torch.mul(x, x, out=second)
        torch.mul(x, y, out=third)
        mean, square, product = window_mean(moments).split(channels, 1)
        means, squared = mean * mean_y, mean * mean
        b = product.sub_(means).mul_(2).add_(SSIM_C2)
        a = means.mul_(2).add_(SSIM_C1)
        d = square.sub_(squared).add_(variance_y).add_(SSIM_C2)
        c = squared.add_(square_y).add_(SSIM_C1)
        scale = (c * d).reciprocal_()
        ssim = (a * b).mul_(scale)
        error = torch.add(0.5, ssim, alpha=-0.5)
        if ctx.needs_input_grad[0]:
            scale.mul_((error >= 0) & (error <= 1))  # where the clamp below lets a gradient pass
            of_product = (a * scale).neg_()
            of_square = (c * scale).mul_(ssim).mul_(0.5)
            of_mean = a.sub_(b).mul_(mean_y).addcmul_(ssim.mul_(mean), d.sub_(c)).mul_(scale)
            ctx.save_for_backward(x, y, of_mean, of_square, of_product)
        return error.clamp_(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *factors = ctx.saved_tensors
        channels = x.shape[1]
        moments = x.new_empty((len(x), 3 * channels, *x.shape[2:]))
        for factor, moment in zip(factors, moments.split(channels, 1), strict=True):
            torch.mul(factor, gradient, out=moment)
        first, second, third = _WindowMean.backward(None, moments).split(channels, 1)
        return first.addcmul_(second, x, value=2).addcmul_(third, y), None, None, None, None


def window_mean(image: Tensor) -> Tensor:
    """Mean over the 3x3 window of each pixel (B, C, H, W), borders reflected."""
    return _WindowMean.apply(image)


class _WindowMean(torch.autograd.Function):
    """Shifted sums along each axis: on a CPU several times faster than ``avg_pool2d``."""

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        for axis in (-2, -1):
            image, before = _add_neighbours(image, axis), image
            # Reflection: beyond a border lies a copy of the pixel next to it, which counts twice.
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
    result = torch.empty_like(image)
    torch.add(
        image.narrow(axis, 0, last - 1),
        image.narrow(axis, 2, last - 1),
        out=result.narrow(axis, 1, last - 1),
    )
    result.select(axis, 0).copy_(image.select(axis, 1))
    result.select(axis, last).copy_(image.select(axis, last - 1))
    return result.add_(image)


def plain_ssim_error(x: Tensor, y: Tensor) -> Tensor:
    """The same as :meth:`PhotometricLoss.ssim_error`, but differentiated by autograd.

    Tests compare with it.

    Args:
        x, y: (B, C, H, W) in 0..1.
    """

    def mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode='reflect'), 3, 1)

    mean_x, mean_y = mean(x), mean(y)
    covariance = mean(x * y) - mean_x * mean_y
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    ssim = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    ssim = ssim / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2))
    return ((1 - ssim) / 2).clamp(0, 1)
