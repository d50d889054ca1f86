"""Supervision by the known height of the camera over the road, which makes depth metric."""

from __future__ import annotations

import torch
from torch import Tensor

from depth_ros.inference.classes import ROAD
from train.losses.reduction import masked_mean
from train.losses.term import Need, Step, Term
from train.setting import setting


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
    """:func:`camera_height` of one image; ``inverse``: its intrinsics, inverted and transposed."""
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
    # Replace NaN before the division: otherwise the gradient would be NaN.
    relative = torch.where(known, seen, 1) / torch.where(known, height, 1) - 1
    return masked_mean(relative.abs(), known, empty='zero')


def _term(step: Step) -> Tensor:
    height = step.settings.camera_height
    return camera_height_loss(
        step.disparity,
        step.batch['labels'] == ROAD,
        step.motion.intrinsics,
        step.disparity.new_full((len(step.images),), height),
    )


TERM = Term(
    name='height',
    help='weight of the known camera height',
    function=_term,
    weight=0.1,
    weight_setting='height_weight',
    switch='camera_height',
    metric=True,
    needs=(
        Need(
            'labels',
            'camera_height',
            instead="leave it to 'python -m train export --camera-height'",
        ),
    ),
    settings={
        'camera_height': setting(
            'height of the camera over the road, metres; makes the scale metric in training; '
            '0: unknown',
            0.0,
        )
    },
)
