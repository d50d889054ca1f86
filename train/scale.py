"""Metric scale of a self-supervised model from the known height of the camera over the road.

Photometric training fixes depth and translation only up to one common factor. The road in front
of the camera is (nearly) a plane, and its distance from the camera is something an owner can
measure with a ruler.
"""

from __future__ import annotations

import numpy as np


def camera_height(depth: np.ndarray, road: np.ndarray, intrinsics: np.ndarray) -> float | None:
    """Distance of the camera from the road plane, in the unit of ``depth``.

    Args:
        depth: (H, W) along the optical axis.
        road: (H, W) bool, pixels of the road.
        intrinsics: (3, 3) at this size, pixels.

    Returns:
        The distance, or ``None`` where too little road is seen or the pixels do not form a plane
        that lies below the camera.
    """
    height, width = depth.shape
    # Far road is seen at a grazing angle: its depth, and walls mistaken for it, would tilt the
    # plane. The trapezoid ahead of the car is enough.
    near = np.zeros_like(road)
    near[int(0.6 * height):, width // 4: -width // 4] = True
    v, u = np.nonzero(road & near)
    if len(v) < 0.02 * depth.size:
        return None
    rays = np.stack([u, v, np.ones_like(u)]).astype(np.float64)
    points = (np.linalg.inv(intrinsics) @ rays * depth[v, u]).T
    # Plane n.x = 1 with inverse-depth weights, re-weighted twice against outliers (kerbs, cars).
    weight = 1 / points[:, 2]
    normal = np.zeros(3)
    for _ in range(3):
        normal = np.linalg.lstsq(points * weight[:, None], weight, rcond=None)[0]
        error = np.abs(points @ normal - 1)
        weight = 1 / points[:, 2] / np.maximum(error / max(np.median(error), 1e-9), 1)
    size = np.linalg.norm(normal)
    if normal[1] < 0.9 * size:  # the optical y axis points down
        return None
    return float(1 / size)
