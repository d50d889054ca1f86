"""One network for many cameras: depth and motion as its own camera would have them."""

from __future__ import annotations

import torch
from torch import Tensor


def focal_factor(intrinsics: Tensor, focal: float) -> Tensor:
    """By what the depth of a network for one focal length is multiplied for each camera: (B,).

    sqrt(fx / f * fy / f), as ``ImageFit.depth_factor`` of the nodes; 1 where the intrinsics are
    unknown or ``focal`` is 0.

    Args:
        intrinsics: (B, 3, 3) at network size.
        focal: of the network's own camera, pixels at network size.
    """
    if not focal:
        return intrinsics.new_ones(len(intrinsics))
    factor = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt() / focal
    return factor.nan_to_num(nan=1.0)


def pose_for_camera(pose: Tensor, intrinsics: Tensor, focal: float) -> Tensor:
    """Real motion (N, 6) from that which the network's own camera would have made.

    A network for one focal length f that is shown another's images, F = sqrt(fx fy), takes every
    depth for f / F times as far (:func:`focal_factor`). A turn by w moves pixels by F w, a step
    across by F t / Z, a step ahead in proportion to t / Z, so that it sees w F / f, t, and
    t f / F. Where the pixels are not square, yaw and x go with fx, pitch and y with fy.

    Args:
        pose: rotation vectors in radians, then translations.
        intrinsics: (N, 3, 3) at network size; where unknown, nothing changes.
        focal: of the network's own camera, pixels; 0: nothing changes.
    """
    if not focal:
        return pose
    fx = (intrinsics[:, 0, 0] / focal).nan_to_num(1.0)
    fy = (intrinsics[:, 1, 1] / focal).nan_to_num(1.0)
    one, stretch = torch.ones_like(fx), (fy / fx).sqrt()
    factors = [1 / fy, 1 / fx, one, stretch, 1 / stretch, (fx * fy).sqrt()]
    return pose * torch.stack(factors, 1)
