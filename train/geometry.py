"""Projective geometry on batches of images, differentiable.

Conventions: optical frames (x right, y down, z forward), pixel centres at integer coordinates,
``T_a_b`` takes points from frame b to frame a: x_a = T_a_b x_b.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of rotation vectors (B, 3) in radians (Rodrigues' formula).

    sin(a)/a and (1 - cos(a))/a^2 come from their series near zero, so that the gradient at no
    rotation at all, where training begins, is exact and finite.
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
    top = torch.cat([rotation_from_vector(pose[:, :3]), pose[:, 3:, None]], -1)
    bottom = pose.new_tensor([0, 0, 0, 1]).expand(len(pose), 1, 4)
    return torch.cat([top, bottom], 1)


def invert_transform(transform: Tensor) -> Tensor:
    """Inverse (B, 4, 4) of rigid transforms (B, 4, 4)."""
    rotation = transform[:, :3, :3].transpose(1, 2)
    translation = -rotation @ transform[:, :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), transform[:, 3:]], 1)


def scale_intrinsics(intrinsics: Tensor, x_scale: float, y_scale: float) -> Tensor:
    """Intrinsics (B, 3, 3) of images resized by the two factors.

    Resizing maps the outer edges of the image onto each other, so with pixel centres at integers
    the principal point moves as (c + 0.5) * s - 0.5.
    """
    scaled = intrinsics.clone()
    scaled[:, 0, 0] *= x_scale
    scaled[:, 1, 1] *= y_scale
    scaled[:, 0, 2] = (intrinsics[:, 0, 2] + 0.5) * x_scale - 0.5
    scaled[:, 1, 2] = (intrinsics[:, 1, 2] + 0.5) * y_scale - 0.5
    return scaled


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (B, 3, H*W) of depth maps (B, 1, H, W): D K^-1 p (SfMLearner, eq. 2)."""
    _, _, height, width = depth.shape
    v, u = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype, device=depth.device),
        torch.arange(width, dtype=depth.dtype, device=depth.device), indexing='ij')
    pixels = torch.stack([u.flatten(), v.flatten(), torch.ones_like(u.flatten())])
    rays = torch.linalg.inv(intrinsics) @ pixels
    return rays * depth.flatten(2)


def project(points: Tensor, transform: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates of points seen from another camera: K T x.

    Args:
        points: (B, 3, N) in the target frame.
        transform: (B, 4, 4) T_source_target.
        intrinsics: (B, 3, 3) of the source camera.

    Returns:
        Pixels (B, N, 2) as (u, v), and depth (B, N) in the source frame, which is not positive
        for points behind the camera: their pixels are meaningless.
    """
    moved = transform[:, :3, :3] @ points + transform[:, :3, 3:]
    image = intrinsics @ moved
    z = image[:, 2]
    pixels = image[:, :2] / z.clamp(min=1e-3)[:, None]
    return pixels.transpose(1, 2), z


def warp(
    source: Tensor, depth: Tensor, transform: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """Synthesize the target view from a source image (SfMLearner, section 3.2).

    Args:
        source: (B, C, H, W).
        depth: (B, 1, H, W) of the target view.
        transform: (B, 4, 4) T_source_target.
        intrinsics: (B, 3, 3) at this resolution, of both cameras.

    Returns:
        The warped image (B, C, H, W), and a mask (B, 1, H, W) of the pixels that really are seen
        in the source: in front of the camera and inside its image.
    """
    batch, _, height, width = depth.shape
    pixels, z = project(unproject(depth, intrinsics), transform, intrinsics)
    size = pixels.new_tensor([width - 1, height - 1])
    grid = (pixels / size * 2 - 1).view(batch, height, width, 2)
    inside = (grid.abs() <= 1).all(-1) & (z.view(batch, height, width) > 1e-3)
    warped = F.grid_sample(source, grid, padding_mode='border', align_corners=True)
    return warped, inside[:, None]
