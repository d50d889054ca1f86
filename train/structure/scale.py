"""Metres for a reconstruction, and how sure they are.

The scale of what one camera reconstructs drifts along the way. So metres are asked all along it:
from what was measured (wheel odometry, GPS, speed), or else from the height of the camera over the
road. A frame's scale is the median of what it and the frames around it say; where these disagree,
the reconstruction is not right there, and there are no metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.data.sequences import Sequence, read_map, resize_map, stored_size
from train.structure.found import Reconstruction

ROAD = 0  # Cityscapes' trainId
REACH = 8  # frames before and after, that say a frame's scale with it
LEAST = 4  # of these must say one
UNSURE = 0.15  # relative spread of these from which metres would be a guess
ENOUGH = 0.5  # of the frames must have metres, or the part has none
AHEAD = (3.0, 12.0)  # camera heights to the sides and ahead: farther, a road is no plane
LEAST_POINTS = 12  # of the road, for a plane through them
GROUND = (0.65, 0.2)  # without labels: rows below this part of the height, columns away from sides
LEVEL = 0.04  # of the camera's height, that points of a flat ground may lie off the plane
FLAT = 0.5  # of the points of the ground must
MEASURED = 'odometry'
HEIGHT = 'camera height'
NONE = 'none'


@dataclass(frozen=True)
class Scale:
    """Metres of one part, whose frames are n.

    Attributes:
        factors: (n,) metres a unit at each frame; NaN where unknown.
        spread: relative standard deviation of what the frames around one say, the median of all;
            NaN where unknown.
        source: 'odometry', 'camera height' or 'none'.
        remark: why there is none, or what is doubtful.
    """

    factors: np.ndarray
    spread: float
    source: str
    remark: str = ''


def find_scale(
    sequence: Sequence, found: Reconstruction, part: int, camera_height: float | None
) -> Scale:
    """Metres of a part: from odometry or speed where measured, else from the camera's height."""
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
        remarks.append(f'{source} says a scale that is sure in {100 * share:.0f} % of the frames')
    remarks = remarks or ['no odometry, speed or camera height']
    return Scale(np.full(len(frames), np.nan), np.nan, NONE, '; '.join(remarks))


def _agreed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What frames and their surroundings agree on.

    Args:
        values: what each frame says, (n,), NaN where it says nothing.

    Returns:
        That, (n,), NaN where they do not agree, and the relative standard deviation of what each
        frame's surroundings say, (n,), NaN where these say too little.
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
        # Quartiles, not deviations from the median: half of a jump must show.
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
    """Metres a unit around each of ``frames``, by what was measured; ``None`` if nothing was."""
    if sequence.odometry is None and (sequence.speeds is None or sequence.times is None):
        return None
    places = found.poses[frames, :3, 3]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    typical = np.median(np.diff(way)) if len(way) > 1 else 0.0
    values = np.full(len(frames), np.nan)
    for index in range(len(frames)):
        a, b = max(0, index - REACH), min(len(frames) - 1, index + REACH)
        i, j = int(frames[a]), int(frames[b])
        # Odometry gives straight distances, speed the length of the way.
        straight = (
            sequence.odometry is not None and np.isfinite(sequence.odometry[[i, j], :3, 3]).all()
        )
        units = np.linalg.norm(places[b] - places[a]) if straight else way[b] - way[a]
        if units > typical:  # else it stands, and noise is divided by noise
            values[index] = sequence.distance(i, j) / units
    return values


def _from_height(
    sequence: Sequence,
    found: Reconstruction,
    frames: np.ndarray,
    camera_height: float | None,
) -> np.ndarray | None:
    """Metres a unit in each of ``frames``, by the camera's height; ``None`` if it is unknown."""
    if camera_height is None:
        return None
    return camera_height / np.array([_height(sequence, found, int(i)) for i in frames])


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
    points = found.lens.rays(xy[ground]) * depth[ground, None]
    rough = np.median(points[:, 1])
    near = (np.abs(points[:, 0]) < AHEAD[0] * rough) & (points[:, 2] < AHEAD[1] * rough)
    if near.sum() < LEAST_POINTS:
        return np.nan
    return plane_height(points[near], sure=labels is not None)


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
    if not sure and np.mean(off < LEVEL) < FLAT:
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
