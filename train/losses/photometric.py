"""View synthesis losses: how well do warped neighbours explain the target image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_C1 = 0.01 ** 2
SSIM_C2 = 0.03 ** 2


def ssim_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2 over 3x3 windows, in 0..1.

    Args:
        predicted, target: (B, C, H, W) in 0..1.

    Returns:
        (B, C, H, W); borders are reflected.
    """
    x, y = (F.pad(image, (1, 1, 1, 1), mode='reflect') for image in (predicted, target))
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    var_x = F.avg_pool2d(x * x, 3, 1) - mean_x ** 2
    var_y = F.avg_pool2d(y * y, 3, 1) - mean_y ** 2
    covariance = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    ssim = ((2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
            / ((mean_x ** 2 + mean_y ** 2 + SSIM_C1) * (var_x + var_y + SSIM_C2)))
    return ((1 - ssim) / 2).clamp(0, 1)


def photometric_error(predicted: Tensor, target: Tensor, ssim_weight: float = 0.85) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 L1, averaged over colours: (B, 1, H, W) (FSRE-Depth, eq. 2)."""
    absolute = (predicted - target).abs().mean(1, keepdim=True)
    structural = ssim_error(predicted, target).mean(1, keepdim=True)
    return ssim_weight * structural + (1 - ssim_weight) * absolute


def minimum_reprojection(
    warped: Sequence[Tensor], valid: Sequence[Tensor], identity: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-pixel minimum reprojection loss with auto-masking (Godard et al. 2019, eq. 4 and 5).

    Args:
        warped: per source, the image warped to the target (B, 3, H, W).
        valid: per source, which pixels the source really sees (B, 1, H, W), bool.
        identity: least error (B, 1, H, W) of the sources left where they are. Pixels that these
            explain better (still cars ahead, a standing robot, plain sky) teach nothing.
        target: (B, 3, H, W).

    Returns:
        The mean loss over the pixels that a source sees, and the mask (B, 1, H, W) of those among
        them that the motion explains better than no motion.

    Raises:
        ValueError: if not a single pixel of the batch is seen by any source.
    """
    errors = torch.stack([photometric_error(image, target) for image in warped])
    seen = torch.stack(list(valid))
    # A source that does not see the pixel must not win the minimum.
    error = errors.masked_fill(~seen, torch.inf).amin(0)
    seen_by_any = seen.any(0)
    if not seen_by_any.any():
        raise ValueError('no pixel of the batch is seen by any source image: the predicted motion '
                         'leaves every view; lower the learning rate or check the intrinsics')
    kept = torch.minimum(error, identity)[seen_by_any].mean()
    return kept, seen_by_any & (error < identity)
