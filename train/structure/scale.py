"""Metric scale of a reconstruction, and its uncertainty.

The scale of a reconstruction from one camera drifts along the drive. So it is estimated at every
frame: from measured motion (wheel odometry, GPS, speed), or else from the height of the camera over
the road. A frame's scale is the median of the estimates of the frames around it. Where these
disagree, the reconstruction is wrong, and the scale is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.data.sequences import Sequence, read_map, resize_map, stored_size
from train.structure.found import Reconstruction

ROAD = 0  # Cityscapes' trainId
REACH = 8  # frames before and after a frame whose estimates count for it
LEAST = 4  # smallest number of such estimates
UNSURE = 0.15  # relative spread of the estimates from which the scale is unknown
ENOUGH = 0.5  # smallest share of frames with a scale for a part to be metric
AHEAD = (3.0, 12.0)  # to the sides and ahead, camera heights: farther, a road is no plane
LEAST_POINTS = 12  # smallest number of points to fit the road's plane to
GROUND = (0.65, 0.2)  # without labels: rows below this share of the height, distance from the sides
LEVEL = 0.04  # largest distance of flat ground from the plane, in camera heights
FLAT = 0.5  # smallest share of the ground's points that must be that flat
MEASURED = 'odometry'
HEIGHT = 'camera height'
NONE = 'none'


@dataclass(frozen=True)
class Scale:
    """Metric scale of a part of n frames.

    Attributes:
        factors: (n,) metres per unit at each frame; NaN: unknown.
        spread: relative standard deviation of the estimates around a frame, the median over all
            frames; NaN: unknown.
        source: what was measured: 'odometry', 'camera height' or 'none'.
        remark: why there is no scale, or what is doubtful.
    """

    factors: np.ndarray
    spread: float
    source: str
    remark: str = ''


def find_scale(
    sequence: Sequence, found: Reconstruction, part: int, camera_height: float | None
) -> Scale:
    """Find the scale of a part: from odometry or speed if measured, else the camera's height.

    Args:
        sequence: the sequence.
        found: its reconstruction.
        part: number of the part.
        camera_height: height of the camera over the ground, metres; ``None``: unknown.
    """
    frames = np.flatnonzero(found.part == part)
    remarks = []
    for source in (MEASURED, HEIGHT):
        if source == MEASURED:
            values = _from_motion(sequence, found, frames)
        else:
            values = _from_height(sequence, found, frames, camera_height)
        if values is None:
            continue
        factors, spreads = _agreed(values)
        share = np.isfinite(factors).mean()
        if share >= ENOUGH:
            spread = float(np.nanmedian(np.where(np.isfinite(factors), spreads, np.nan)))
            return Scale(factors, spread, source, '; '.join(remarks))
        remarks.append(f'{source} gives a consistent scale in {100 * share:.0f} % of the frames')
    remarks = remarks or ['no odometry, speed or camera height']
    return Scale(np.full(len(frames), np.nan), np.nan, NONE, '; '.join(remarks))


def _agreed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Combine the estimates of neighbouring frames.

    Args:
        values: (n,) metres per unit that each frame estimates; NaN: no estimate.

    Returns:
        (n,) metres per unit, the median of the frames around each frame, NaN where they disagree;
        and (n,) relative standard deviation of these estimates, NaN where they are too few.
    """
    values = np.where(values > 0, values, np.nan)
    middle, spreads = np.full((2, len(values)), np.nan)
    sure = np.ones(len(values), bool)
    for index in range(len(values)):
        around = values[max(0, index - REACH) : index + REACH + 1]
        around = around[np.isfinite(around)]
        if len(around) < LEAST:
            continue
        low, middle[index], high = np.percentile(around, [25, 50, 75])
        # Quartiles react to a jump of the scale inside the window; a median deviation would not.
        spreads[index] = (high - low) / 1.349 / middle[index]
        sure[index] = spreads[index] < UNSURE
    there = np.flatnonzero(np.isfinite(middle))
    if not len(there):
        return middle, spreads
    filled = np.exp(np.interp(np.arange(len(values)), there, np.log(middle[there])))
    for a, b in zip(there[:-1], there[1:], strict=True):  # gaps
        if b - a > 1 and abs(np.log(middle[b] / middle[a])) > UNSURE:
            sure[a + 1 : b] = False
    sure[: max(0, there[0] - REACH)] = False
    sure[there[-1] + REACH + 1 :] = False
    return np.where(sure, filled, np.nan), spreads


def _from_motion(
    sequence: Sequence, found: Reconstruction, frames: np.ndarray
) -> np.ndarray | None:
    """Metres per unit around each of the ``frames`` (n,), from measured motion.

    ``None`` if neither odometry nor speed was measured.
    """
    if sequence.odometry is None and (sequence.speeds is None or sequence.times is None):
        return None
    places = found.poses[frames, :3, 3]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    typical = np.median(np.diff(way)) if len(way) > 1 else 0.0
    values = np.full(len(frames), np.nan)
    for index in range(len(frames)):
        a, b = max(0, index - REACH), min(len(frames) - 1, index + REACH)
        i, j = int(frames[a]), int(frames[b])
        # Odometry gives straight distances, speed the length of the path.
        straight = (
            sequence.odometry is not None and np.isfinite(sequence.odometry[[i, j], :3, 3]).all()
        )
        units = np.linalg.norm(places[b] - places[a]) if straight else way[b] - way[a]
        if units > typical:  # a standing camera would divide noise by noise
            values[index] = sequence.distance(i, j) / units
    return values


def _from_height(
    sequence: Sequence,
    found: Reconstruction,
    frames: np.ndarray,
    camera_height: float | None,
) -> np.ndarray | None:
    """Metres per unit at each of the ``frames`` (n,), from the camera's height.

    ``None`` if the height is unknown.
    """
    if camera_height is None:
        return None
    return camera_height / np.array([_height(sequence, found, int(i)) for i in frames])


def _height(sequence: Sequence, found: Reconstruction, frame: int) -> float:
    """Height of the camera over the ground's points that a frame sees, in the part's unit.

    NaN if they do not show a plane.
    """
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
    points = found.lens.rays(xy[ground]) * depth[ground, None]
    rough = np.median(points[:, 1])
    near = (np.abs(points[:, 0]) < AHEAD[0] * rough) & (points[:, 2] < AHEAD[1] * rough)
    if near.sum() < LEAST_POINTS:
        return np.nan
    return plane_height(points[near], sure=labels is not None)


def plane_height(points: np.ndarray, sure: bool) -> float:
    """Distance of the origin from the plane below it that fits most of the points.

    Args:
        points: (n, 3) in the camera's optical frame, in any unit.
        sure: whether they are known to be on the ground; otherwise half of them must be flat.

    Returns:
        The distance, in the unit of the points; NaN if no such plane fits.
    """
    # y = a x + b z + c by least absolute deviations, which outliers hardly change.
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
    if not sure and np.mean(off < LEVEL) < FLAT:
        return np.nan
    return float(height)


def frame_labels(sequence: Sequence, frame: int) -> np.ndarray | None:
    """Labels (H, W) of a frame at its image's size; ``None`` if it has none."""
    path = sequence.semantics_path(frame)
    if not path.exists():
        return None
    labels = read_map(path, dtype=np.uint8)
    size = stored_size(sequence)
    return labels if size is None else resize_map(labels, *size)


def label_at(labels: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Look up the labels (n,) at pixels (n, 2)."""
    column = np.rint(xy[:, 0]).astype(int).clip(0, labels.shape[1] - 1)
    row = np.rint(xy[:, 1]).astype(int).clip(0, labels.shape[0] - 1)
    return labels[row, column]
