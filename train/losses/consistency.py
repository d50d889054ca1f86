"""What ties the scale of the predictions: to each other, and to metres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.geometry import Projection, in_view, sample
from train.losses.reduction import masked_mean


def geometry_consistency(
    disparity: Tensor, source_disparity: Tensor, transform: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """Disagreement of two views' depth (Bian et al. 2019, eq. 5 to 7): |D - D'| / (D + D').

    D is the target's depth as seen from the source, D' the source's own depth where it sees the
    point. The loss makes all frames of a recording agree on one scale; moving objects and
    occlusions disagree, so that 1 minus the disagreement weighs the photometric error.

    Args:
        disparity: (B, 1, H, W) of the target.
        source_disparity: (B, 1, H, W) of the source.
        transform: (B, 4, 4) T_source_target.
        intrinsics: (B, 3, 3) of both at this size.

    Returns:
        The mean over the pixels that the source sees, and the weight (B, 1, H, W) in 0..1, which
        is 0 where the source does not see the pixel. (Detach it where it weighs another loss.)

    Raises:
        ValueError: if the source sees no pixel of the target.
    """
    grid, nearness, in_front = Projection(transform, intrinsics, *disparity.shape[2:])(disparity)
    valid = in_front & in_view(grid)
    depth = nearness / disparity
    source_depth = sample(1 / source_disparity, grid)
    # Behind the camera the depth is negative and the sum may be 0.
    difference = (depth - source_depth).abs() / (depth.clamp(min=0) + source_depth)
    return masked_mean(difference, valid), (1 - difference).masked_fill(~valid, 0)


def velocity_loss(transforms: Sequence[Tensor], distances: Tensor) -> Tensor:
    """| |t| - distance |, which makes a model unit a metre (PackNet, Guizilini et al. 2020, eq. 6).

    Args:
        transforms: per source, T_source_target (B, 4, 4) in model units.
        distances: (B, S) metres travelled between target and each source, NaN where unknown.

    Returns:
        The mean over the known distances, in metres; 0 if none is known.
    """
    lengths = torch.stack([t[:, :3, 3].norm(dim=1) for t in transforms], 1)
    known = distances.isfinite()
    return masked_mean((lengths - distances.nan_to_num()).abs(), known, empty='zero')


def camera_height(disparity: Tensor, road: Tensor, intrinsics: Tensor) -> Tensor:
    """Distance of the camera from the road plane, in the unit of 1/disparity; differentiable.

    Photometric training fixes depth and translation only up to one common factor; the road ahead is
    (nearly) a plane, whose distance an owner can measure with a ruler. The plane n.X = 1 through
    the points X = ray / disparity is linear in the image: n.ray = disparity.

    Args:
        disparity: (B, 1, H, W).
        road: (B, H, W) bool, pixels of the road.
        intrinsics: (B, 3, 3) at this size.

    Returns:
        (B,), NaN where too little road is seen or its pixels form no plane below the camera.
    """
    height, width = disparity.shape[2:]
    # Far road is seen at a grazing angle: its depth, and walls mistaken for it, would tilt the
    # plane. The trapezoid ahead of the car is enough.
    near = torch.zeros_like(road)
    near[:, int(0.6 * height) :, width // 4 : width - width // 4] = True
    inverses = torch.linalg.inv(intrinsics.double()).mT
    return torch.stack(
        [
            _plane_distance(*image)
            for image in zip(disparity[:, 0], road & near, inverses, strict=True)
        ]
    )


def _plane_distance(disparity: Tensor, road: Tensor, inverse: Tensor) -> Tensor:
    """:func:`camera_height` of one image, of transposed inverse intrinsics."""
    v, u = road.nonzero(as_tuple=True)
    if len(v) < 0.02 * road.numel():
        return disparity.new_full((), torch.nan)
    rays = torch.stack([u, v, torch.ones_like(u)], 1).double() @ inverse
    nearness = disparity[v, u].double()
    weight = torch.ones_like(nearness)
    for _ in range(3):
        weighted = rays * weight[:, None]
        normal = torch.linalg.solve(weighted.mT @ weighted, weighted.mT @ (nearness * weight))
        # Kerbs and cars taken for road: errors above the median weigh less.
        error = (rays @ normal / nearness - 1).detach().abs()
        weight = 1 / (error / error.median().clamp(min=1e-9)).clamp(min=1)
    size = normal.norm()
    # The optical y axis points down, towards the road.
    return torch.where(normal[1] < 0.9 * size, torch.nan, 1 / size).to(disparity.dtype)


def camera_height_loss(
    disparity: Tensor, road: Tensor, intrinsics: Tensor, height: Tensor
) -> Tensor:
    """|h / height - 1| of the camera's height over the road, which makes a model unit a metre.

    Args:
        disparity, road, intrinsics: as of :func:`camera_height`.
        height: (B,) metres, as measured on the vehicle; NaN where unknown.

    Returns:
        The mean over the images whose road shows; 0 without any.
    """
    seen = camera_height(disparity, road, intrinsics)
    known = seen.isfinite() & height.isfinite()
    # NaN must be gone before the division, whose gradient it would spoil.
    relative = torch.where(known, seen, 1) / torch.where(known, height, 1) - 1
    return masked_mean(relative.abs(), known, empty='zero')
