"""Converting depth and motion of a network for one focal length to other cameras."""

from __future__ import annotations

import torch
from torch import Tensor


def focal_factor(intrinsics: Tensor, focal: float) -> Tensor:
    """Factor (B,) from the network's depth to that of each camera.

    sqrt(fx / f * fy / f), as ``ImageFit.depth_factor`` of the nodes; 1 where the intrinsics are
    unknown or ``focal`` is 0.

    Args:
        intrinsics: (B, 3, 3) at network size.
        focal: focal length of the network's own camera, pixels at network size.
    """
    if not focal:
        return intrinsics.new_ones(len(intrinsics))
    factor = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt() / focal
    return factor.nan_to_num(nan=1.0)


def pose_for_camera(pose: Tensor, intrinsics: Tensor, focal: float) -> Tensor:
    """Convert motion (N, 6) as the network sees it into the real motion of each camera.

    A network for focal length f that is shown the images of a camera with F = sqrt(fx fy) estimates
    f / F times the real depth (:func:`focal_factor`). A turn by w moves pixels by F w, a sideways
    step t by F t / Z, a forward step t in proportion to t / Z. So the network sees the turn as
    w F / f, the sideways step as t and the forward step as t f / F. Where pixels are not square,
    yaw and x scale with fx, pitch and y with fy.

    Args:
        pose: the network's output: rotation vectors in radians, then translations.
        intrinsics: (N, 3, 3) at network size; where unknown, nothing changes.
        focal: focal length of the network's own camera, pixels at network size; 0: nothing changes.
    """
    if not focal:
        return pose
    fx = (intrinsics[:, 0, 0] / focal).nan_to_num(1.0)
    fy = (intrinsics[:, 1, 1] / focal).nan_to_num(1.0)
    one, stretch = torch.ones_like(fx), (fy / fx).sqrt()
    factors = [1 / fy, 1 / fx, one, stretch, 1 / stretch, (fx * fy).sqrt()]
    return pose * torch.stack(factors, 1)
