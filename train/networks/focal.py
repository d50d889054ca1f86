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

    The same two images come from a camera of focal length f that turned by w and moved by t, or
    from one of f' that turned by w f / f' and, past a scene as far as its network takes it for,
    by t f' / f. Yaw goes with fx, pitch with fy, roll with none, as small turns do.

    Args:
        pose: rotation vectors in radians, then translations.
        intrinsics: (N, 3, 3) at network size; where unknown, nothing changes.
        focal: of the network's own camera, pixels; 0: nothing changes.
    """
    if not focal:
        return pose
    fx, fy = (intrinsics[:, 0, 0] / focal).nan_to_num(1.0), (intrinsics[:, 1, 1] / focal)
    fy = fy.nan_to_num(1.0)
    one = torch.ones_like(fx)
    turn = torch.stack([1 / fy, 1 / fx, one], 1)
    return torch.cat([pose[:, :3] * turn, pose[:, 3:] * (fx * fy).sqrt()[:, None]], 1)
