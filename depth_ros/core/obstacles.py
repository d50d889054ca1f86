"""What stands on the ground, from one depth image: points for a costmap, and their scan.

Depth of one camera has relative errors, so a point of the ground is wrong by the same share of the
camera's height wherever it is: one least height tells obstacles from ground, near and far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.ground import DOWN, Ground

OBSTACLE = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('height', '<f4'), ('label', '<u4')])
"""One point: metres in the optical frame, metres over the ground, class id. 20 bytes."""

STRIDE = 2
"""Every n-th pixel of every n-th row is looked at."""


@dataclass(frozen=True)
class ObstacleLimits:
    """What counts as an obstacle.

    Attributes:
        least_height, most_height: metres over the ground.
        least_range, most_range: metres from the camera, in the plane of a scan.
        ignored: class ids that are none, such as sky.
        robot_rows: share of the image's rows, from below, in which the robot sees itself.
    """

    least_height: float
    most_height: float
    least_range: float
    most_range: float
    ignored: tuple[int, ...] = ()
    robot_rows: float = 0.0


def level_ground(height: float) -> Ground:
    """The plane below a camera that is held level, `height` metres over the ground."""
    return Ground(np.array(DOWN), height, math.nan, np.zeros(0, bool))


@dataclass(frozen=True)
class Seen:
    """What a depth image shows, at every `STRIDE`-th pixel.

    Attributes:
        points: the obstacles, (N,) of `OBSTACLE`.
        ahead, left: (N,), metres, where a vertical line through each meets the plane that the
            optical axis and the image's rows span: the plane of a scan.
        looked: bool (columns,), those in which any depth is known.
    """

    points: np.ndarray
    ahead: np.ndarray
    left: np.ndarray
    looked: np.ndarray


def find_obstacles(
    depth: np.ndarray,
    camera: Intrinsics,
    labels: np.ndarray | None,
    ground: Ground,
    limits: ObstacleLimits,
    unlabeled: int,
) -> Seen:
    """Find the points that stand on the ground.

    Args:
        depth: float32 (H, W), metres along the optical axis; NaN = invalid.
        camera: intrinsics of the depth image.
        labels: uint8 (H, W), or None.
        ground: the plane, in metres.
        limits: what counts.
        unlabeled: label of points without a class.
    """
    rows = math.ceil(depth.shape[0] * (1 - limits.robot_rows))
    grid = np.s_[:rows:STRIDE, ::STRIDE]
    z = depth[grid]
    x_ray, y_ray = camera.rays(STRIDE)
    y_ray = y_ray[: len(z)]
    normal = ground.normal.astype(np.float32)
    # Height over the plane: h - n.X with X = z r.
    along = normal[0] * x_ray + (normal[1] * y_ray + normal[2])[:, None]
    height = np.float32(ground.height) - z * along
    with np.errstate(invalid='ignore'):
        chosen = (height >= limits.least_height) & (height <= limits.most_height)
        chosen &= z <= np.float32(2 * limits.most_range)
    if labels is not None:
        for number in limits.ignored:
            chosen &= labels[grid] != number
    row, column = np.nonzero(chosen)
    distance = z[row, column]
    x, y = distance * x_ray[column], distance * y_ray[row]
    # Along the ground's normal onto the plane y = 0.
    fall = y / normal[1]
    ahead, left = distance - fall * normal[2], fall * normal[0] - x
    near = np.hypot(ahead, left)
    kept = (near >= limits.least_range) & (near <= limits.most_range)
    points = np.empty(int(kept.sum()), OBSTACLE)
    points['x'], points['y'], points['z'] = x[kept], y[kept], distance[kept]
    points['height'] = height[row, column][kept]
    points['label'] = unlabeled if labels is None else labels[grid][row, column][kept]
    looked = np.asarray(np.isfinite(z).any(axis=0))
    return Seen(points, ahead[kept], left[kept], looked)


@dataclass(frozen=True)
class Beams:
    """Directions of a scan, at the same angles from each other.

    Attributes:
        start: direction of the first one, radians to the left; it is the rightmost.
        increment: radians between two.
        columns: for each, the column of `Seen.looked` that looks there.
    """

    start: float
    increment: float
    columns: np.ndarray


def beams_of(camera: Intrinsics) -> Beams:
    """The directions of a camera's scan, one for four columns of its image.

    Args:
        camera: intrinsics of the depth image.
    """
    x_ray = camera.rays(STRIDE)[0].astype(float)
    left, right = -math.atan(x_ray[0]), -math.atan(x_ray[-1])
    count = max(2, len(x_ray) // 2)
    angles = np.linspace(right, left, count)
    columns = np.interp(-np.tan(angles), x_ray, np.arange(len(x_ray)))
    return Beams(right, float(angles[1] - angles[0]), np.rint(columns).astype(int))


def make_scan(seen: Seen, beams: Beams) -> np.ndarray:
    """The nearest obstacle in each direction, as a laser scanner would see it.

    Returns:
        float32, one for each beam: metres; inf where nothing stands, NaN where no depth is known.
    """
    count = len(beams.columns)
    beam = np.rint((np.arctan2(seen.left, seen.ahead) - beams.start) / beams.increment)
    inside = (beam >= 0) & (beam < count)
    nearest = np.full(count, np.inf, np.float32)
    distance = np.hypot(seen.ahead[inside], seen.left[inside]).astype(np.float32)
    np.minimum.at(nearest, beam[inside].astype(int), distance)
    nearest[np.isinf(nearest) & ~seen.looked[beams.columns]] = np.nan
    return nearest
