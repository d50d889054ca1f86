"""Projective geometry on batches of images, differentiable.

Conventions: optical frames (x right, y down, z forward), pixel centres at integer coordinates,
``T_a_b`` takes points from frame b to frame a: x_a = T_a_b x_b.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from train.losses.reduction import LossError

MIN_DEPTH = 1e-3  # nearer points do not count as in front of a camera


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of rotation vectors (B, 3) in radians (Rodrigues' formula).

    Near zero, sin(a)/a and (1 - cos(a))/a^2 are computed from their series, so that the gradient at
    zero rotation, where training begins, is exact and finite.
    """
    squared = (vector * vector).sum(-1)
    small = squared < 1e-6
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sinc = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    cosc = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / safe)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + sinc[:, None, None] * cross + cosc[:, None, None] * (cross @ cross)


def transform_from_pose(pose: Tensor) -> Tensor:
    """Rigid transforms (B, 4, 4) of pose outputs (B, 6): rotation vector, then translation."""
    return _transform(rotation_from_vector(pose[:, :3]), pose[:, 3:])


def _transform(rotation: Tensor, translation: Tensor) -> Tensor:
    bottom = rotation.new_tensor([0, 0, 0, 1]).expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, translation[..., None]], -1), bottom], 1)


def rotation_from_euler(angles: Tensor) -> Tensor:
    """Rotation matrices Rx Ry Rz (B, 3, 3) of Euler angles (B, 3) in radians.

    The order is that of SfMLearner's code, and so is the clipping of the angles to -pi..pi.
    """
    x, y, z = angles.clamp(-math.pi, math.pi).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    cos, sin = torch.cos, torch.sin
    about_x = [one, zero, zero, zero, cos(x), -sin(x), zero, sin(x), cos(x)]
    about_y = [cos(y), zero, sin(y), zero, one, zero, -sin(y), zero, cos(y)]
    about_z = [cos(z), -sin(z), zero, sin(z), cos(z), zero, zero, zero, one]
    rx, ry, rz = (torch.stack(m, -1).view(-1, 3, 3) for m in (about_x, about_y, about_z))
    return rx @ ry @ rz


def transform_from_euler_pose(pose: Tensor) -> Tensor:
    """Rigid transforms (B, 4, 4) of SfMLearner's poses (B, 6): tx, ty, tz, rx, ry, rz."""
    return _transform(rotation_from_euler(pose[:, 3:]), pose[:, :3])


def invert_transform(transform: Tensor) -> Tensor:
    """Inverse (B, 4, 4) of rigid transforms (B, 4, 4)."""
    rotation = transform[:, :3, :3].transpose(1, 2)
    translation = -rotation @ transform[:, :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), transform[:, 3:]], 1)


def scale_intrinsics(intrinsics: Tensor, x_scale: float, y_scale: float) -> Tensor:
    """Intrinsics (B, 3, 3) of images resized by the two factors.

    Resizing maps the outer edges of the image onto each other, so with pixel centres at integers
    the principal point moves as (c + 0.5) * s - 0.5. In numpy it is
    :func:`depth_ros.core.camera.scale_intrinsics`.
    """
    scaled = intrinsics.clone()
    scaled[:, 0, 0] *= x_scale
    scaled[:, 1, 1] *= y_scale
    scaled[:, 0, 2] = (intrinsics[:, 0, 2] + 0.5) * x_scale - 0.5
    scaled[:, 1, 2] = (intrinsics[:, 1, 2] + 0.5) * y_scale - 0.5
    return scaled


class Projection:
    """Where a source camera sees the target's pixels: p_s ~ K R K^-1 p_t + disparity K t.

    This is SfMLearner's eq. 2 times the disparity. Everything but the disparity is computed once
    and used for all disparity maps of a target, such as those of several scales. The same in numpy
    is :func:`depth_ros.core.camera.reproject`.

    Args:
        transform: (B, 4, 4) T_source_target.
        intrinsics: (B, 3, 3) of both cameras at this size.
        height, width: of both images, in pixels.

    Attributes:
        matrix: (B, 3, 4), from a pixel (u, v, 1, disparity) to homogeneous coordinates of the
            source's image, which are -1..1 from outermost pixel centre to outermost pixel centre.
    """

    def __init__(self, transform: Tensor, intrinsics: Tensor, height: int, width: int) -> None:
        # From pixels to the coordinates of grid_sample.
        to_grid = intrinsics.new_tensor(
            [[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]]
        )
        camera = to_grid @ intrinsics
        rotated = camera @ transform[:, :3, :3] @ torch.linalg.inv(intrinsics)
        self.matrix = torch.cat([rotated, camera @ transform[:, :3, 3:]], 2)

    def __call__(self, disparity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:func:`project` a disparity map (B, 1, H, W)."""
        return project(disparity, self.matrix)


def project(disparity: Tensor, matrix: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Where a source sees the pixels of a disparity map (B, 1, H, W), 1/depth.

    Args:
        disparity: (B, 1, H, W), some rows of the map or all.
        matrix: (B, 3, 4) of a :class:`Projection`.
        first: row of the map that is the first row of ``disparity``.

    Returns:
        Sampling grid (B, H, W, 2) for ``grid_sample(align_corners=True)``; depth in the source
        frame times disparity (B, 1, H, W); and which points are in front of the source camera
        (B, 1, H, W). For the other points the grid is meaningless.
    """
    height, width = disparity.shape[2:]
    u = torch.arange(width, dtype=matrix.dtype, device=matrix.device)
    v = torch.arange(first, first + height, dtype=matrix.dtype, device=matrix.device)[:, None]
    of_u, of_v, of_one, near = matrix[..., None, None].unbind(2)
    points = torch.addcmul(of_u * u + (of_v * v + of_one), disparity, near)
    nearness = points[:, 2:]
    with torch.no_grad():
        in_front = nearness > MIN_DEPTH * disparity
    grid = points[:, :2] / nearness.clamp(min=1e-5)
    return grid.permute(0, 2, 3, 1), nearness, in_front


def in_view(grid: Tensor) -> Tensor:
    """Which points (B, 1, H, W) of a sampling grid (B, H, W, 2) lie inside the image."""
    # With a tolerance: without motion, the border's pixels land on the border but for rounding.
    return (grid.detach().abs() <= 1 + 1e-5).all(-1)[:, None]


def sample(source: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values (B, C, H, W) of a source image at a grid, beyond it those of its border.

    Raises:
        LossError: if a coordinate is not a number. On a CPU, where PyTorch's gradient would read
            memory anywhere (a GPU reads at the border, and the loss shows it).
    """
    if grid.device.type == 'cpu' and grid.isnan().any():
        raise LossError('depth or motion is no longer a number')
    return F.grid_sample(source, grid, padding_mode='border', align_corners=True)
