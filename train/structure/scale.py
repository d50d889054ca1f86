"""Metres for a reconstruction, and how sure they are.

From what was measured on the way (wheel odometry, GPS, speed), or else from the height of the
camera over the road. Both are asked on several stretches of the drive, one after the other: where
these agree, the scale is sure; where they do not, it has drifted or was never right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.data.sequences import Sequence, read_map, resize_map, stored_size
from train.structure.reconstruct import Reconstruction

ROAD = 0  # Cityscapes' trainId
STRETCHES = 8
LEAST_STRETCHES = 3
UNSURE = 0.15  # relative spread from which metres would be a guess
LEAST_POINTS = 12  # of the road, for a plane through them
GROUND = (0.65, 0.2)  # without labels: rows below this part of the height, columns away from sides
LEVEL = 0.02  # of the camera's height, that points may lie off the plane
FLAT = 0.5  # of the points of the ground must
MEASURED = 'odometry'
HEIGHT = 'camera height'
NONE = 'none'


@dataclass(frozen=True)
class Scale:
    """Metres of one part.

    Attributes:
        factor: metres a unit; NaN where unknown.
        spread: relative standard deviation over the stretches; NaN where unknown.
        source: 'odometry', 'camera height' or 'none'.
        remark: why there is none, or what is doubtful.
    """

    factor: float
    spread: float
    source: str
    remark: str = ''


def find_scale(
    sequence: Sequence, found: Reconstruction, part: int, camera_height: float | None
) -> Scale:
    """Metres of a part: from odometry or speed where measured, else from the camera's height."""
    remarks = []
    for source, values in (
        (MEASURED, _from_motion(sequence, found, part)),
        (
            HEIGHT,
            None
            if camera_height is None
            else [camera_height / h for h in road_heights(sequence, found, part)],
        ),
    ):
        if values is None:
            continue
        scale = _agree(np.array(values), source)
        if np.isfinite(scale.factor):
            return Scale(scale.factor, scale.spread, source, '; '.join(remarks))
        remarks.append(scale.remark)
    remarks = remarks or ['no odometry, speed or camera height']
    return Scale(np.nan, np.nan, NONE, '; '.join(remarks))


def _agree(values: np.ndarray, source: str) -> Scale:
    """One scale of those of all stretches, unless these differ too much."""
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) < LEAST_STRETCHES:
        return Scale(np.nan, np.nan, source, f'{source}: only {len(values)} stretches show a scale')
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values / middle - 1)))
    if spread > UNSURE:
        return Scale(
            np.nan,
            np.nan,
            source,
            f'{source}: stretches of the drive differ by {100 * spread:.0f} %: too unsure',
        )
    return Scale(middle, spread, source)


def _stretches(length: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of stretches of about equal length; ``length`` grows from 0."""
    limits = np.linspace(0, length[-1], STRETCHES + 1)
    ends = np.searchsorted(length, limits).clip(max=len(length) - 1)
    return [(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True) if b > a]


def _path(found: Reconstruction, frames: np.ndarray) -> np.ndarray:
    """Length of the way to each of ``frames`` (n,), in units."""
    steps = np.linalg.norm(np.diff(found.poses[frames, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _from_motion(sequence: Sequence, found: Reconstruction, part: int) -> list[float] | None:
    """Metres a unit on each stretch, by what was measured; ``None`` if nothing was."""
    if sequence.odometry is None and (sequence.speeds is None or sequence.times is None):
        return None
    frames = np.flatnonzero(found.part == part)
    values = []
    for a, b in _stretches(_path(found, frames)):
        i, j = frames[a], frames[b]
        straight = (
            sequence.odometry is not None and np.isfinite(sequence.odometry[[i, j], :3, 3]).all()
        )
        # Odometry gives straight distances, speed the length of the way.
        units = (
            np.linalg.norm(found.poses[j, :3, 3] - found.poses[i, :3, 3])
            if straight
            else _path(found, frames[a : b + 1])[-1]
        )
        values.append(sequence.distance(i, j) / units if units > 0 else np.nan)
    return values


def road_heights(sequence: Sequence, found: Reconstruction, part: int) -> list[float]:
    """Height of the camera over the ground on each stretch, in units, NaN where not seen."""
    frames = np.flatnonzero(found.part == part)
    heights = np.array([_height(sequence, found, int(i)) for i in frames])
    values = []
    for a, b in _stretches(_path(found, frames)):
        there = heights[a : b + 1]
        there = there[np.isfinite(there)]
        values.append(float(np.median(there)) if len(there) else np.nan)
    return values


def _height(sequence: Sequence, found: Reconstruction, frame: int) -> float:
    """Height of the camera over the plane through the ground's points that a frame sees."""
    seen = slice(*np.searchsorted(found.frame, [frame, frame + 1]))
    xy, depth = found.xy[seen].astype(float), found.depth[seen].astype(float)
    labels = frame_labels(sequence, frame)
    if labels is not None:
        ground = label_at(labels, xy) == ROAD
    else:
        size = stored_size(sequence)
        if size is None:
            return np.nan
        width, height = size
        ground = (
            (xy[:, 1] > GROUND[0] * height)
            & (xy[:, 0] > GROUND[1] * width)
            & (xy[:, 0] < (1 - GROUND[1]) * width)
        )
    if ground.sum() < LEAST_POINTS:
        return np.nan
    rays = np.linalg.solve(
        found.lens.matrix, np.column_stack([xy[ground], np.ones(ground.sum())]).T
    ).T
    return plane_height(rays * depth[ground, None], sure=labels is not None)


def plane_height(points: np.ndarray, sure: bool) -> float:
    """Distance of the origin from the plane under it that fits most of the points (n, 3).

    Args:
        points: in the camera's optical frame, any unit.
        sure: whether they are known to be of the ground; otherwise half of them must be flat.

    Returns:
        NaN where there is no such plane.
    """
    # y = a x + b z + c by least absolute deviations: those that lie off it do not count.
    system = np.column_stack([points[:, 0], points[:, 2], np.ones(len(points))])
    weights = np.ones(len(points))
    solution = np.zeros(3)
    for _ in range(20):
        root = np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(system * root, points[:, 1] * root[:, 0], rcond=None)[0]
        rest = np.abs(points[:, 1] - system @ solution)
        weights = 1 / np.maximum(rest, 1e-3 * np.abs(points[:, 1]) + 1e-12)
    height = solution[2] / np.sqrt(1 + solution[0] ** 2 + solution[1] ** 2)
    if height <= 0 or not np.isfinite(height):
        return np.nan
    off = rest / np.sqrt(1 + solution[0] ** 2 + solution[1] ** 2) / height
    if not sure and np.mean(off < 2 * LEVEL) < FLAT:
        return np.nan
    return float(height)


def frame_labels(sequence: Sequence, frame: int) -> np.ndarray | None:
    """Labels (H, W) of a frame at its image's size, or ``None``."""
    path = sequence.semantics_path(frame)
    if not path.exists():
        return None
    labels = read_map(path, dtype=np.uint8)
    size = stored_size(sequence)
    return labels if size is None else resize_map(labels, *size)


def label_at(labels: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Labels (n,) at pixels (n, 2)."""
    column = np.rint(xy[:, 0]).astype(int).clip(0, labels.shape[1] - 1)
    row = np.rint(xy[:, 1]).astype(int).clip(0, labels.shape[0] - 1)
    return labels[row, column]
