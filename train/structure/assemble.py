"""Turning a reconstruction into a structure: metric, without poor points, some points held out."""

from __future__ import annotations

import numpy as np

from depth_ros.evaluation.structure import Structure
from depth_ros.inference.classes import SKY
from train.data.sequences import Sequence
from train.structure.found import Reconstruction
from train.structure.scale import NONE, Scale, frame_labels, label_at

HELD_OUT = 0.1  # share of the places whose points are held out
MAX_ERROR = 2.0  # pixels; an observation with a larger reprojection error is a wrong match
MAX_SIGMA = 0.2  # relative; an observation with a larger uncertainty of depth is not used
NOISE = 0.3  # pixels; smallest standard deviation of a feature's position
LEAST_POINTS = 20  # a frame with fewer points is left out
LEAST_FRAMES = 10  # a part with fewer frames is left out
SMOOTH = 15  # frames before and after, over which the usual depth is smoothed
PLACE = 0.03  # edge of a place, relative to its distance from the camera


def assemble(
    sequence: Sequence, found: Reconstruction, scales: list[Scale]
) -> tuple[Structure, list[Scale]]:
    """Make the structure of a sequence.

    Where a metric part has frames without metres, the reconstruction is wrong. These frames are
    left out, and the frames before and after them become parts of their own.

    Args:
        sequence: the sequence, with its labels.
        found: its reconstruction.
        scales: scale of each part of the reconstruction.

    Returns:
        The structure, and for each of its parts the scale that it was made with.
    """
    sigma = _sigma(found)
    good = (found.error < MAX_ERROR) & (sigma < MAX_SIGMA) & ~_sky(sequence, found)
    counts = np.bincount(found.frame[good], minlength=len(found.part))
    part, factors, origin = _divide(found, scales, counts >= LEAST_POINTS)
    good &= part[found.frame] >= 0
    for number, scale in enumerate(origin):
        if scale.source == NONE:
            frames = np.flatnonzero(part == number)
            factors[frames] = 1 / _usual_depths(found, good, frames)
    frame, point = found.frame[good], found.point[good]
    structure = Structure(
        part=part.astype(np.int32),
        poses=_scaled_poses(found, part, factors),
        metric_spread=np.array([s.spread for s in origin], np.float32),
        starts=np.searchsorted(frame, np.arange(len(part) + 1)),
        xy=found.xy[good],
        depth=(found.depth[good] * factors[frame]).astype(np.float32),
        sigma=sigma[good].astype(np.float32),
        error=found.error[good],
        track=found.track[point].astype(np.int32),
        angle=found.angle[point],
        point=point.astype(np.int32),
        held_out=_held_out(found)[point],
        intrinsics=found.lens.matrix,
    )
    return structure, origin


def _usual_depths(found: Reconstruction, good: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Median depth (n,), in the part's unit, around each of the frames (n,).

    A part without metres is divided by it, so that depths stay comparable along a drive whose
    scale drifts.

    Args:
        found: the reconstruction.
        good: bool (M,), observations that count.
        frames: frames of one part, each with at least one such observation.
    """
    limits = np.searchsorted(found.frame, [frames, frames + 1])
    own = np.array([np.median(found.depth[a:b][good[a:b]]) for a, b in zip(*limits, strict=True)])
    around = [own[max(0, i - SMOOTH) : i + SMOOTH + 1] for i in range(len(own))]
    return np.exp(np.array([np.log(values).mean() for values in around]))


def _divide(
    found: Reconstruction, scales: list[Scale], usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Scale]]:
    """Divide the reconstruction into parts without wrong frames, in temporal order.

    Args:
        found: the reconstruction of N frames.
        scales: scale of each of its parts.
        usable: bool (N,), frames that see enough points.

    Returns:
        Part (N,) of each frame, -1 for none; metres per unit (N,), NaN where unknown; and for
        each part the scale that it was made with.
    """
    factors = np.full(len(found.part), np.nan)
    runs: list[tuple[np.ndarray, Scale]] = []
    for number, scale in enumerate(scales):
        frames = np.flatnonzero(found.part == number)
        factors[frames] = scale.factors
        okay = np.isfinite(scale.factors) | (scale.source == NONE)
        for run in np.split(frames, np.flatnonzero(np.diff(okay.astype(int))) + 1):
            run_is_okay = okay[np.searchsorted(frames, run[0])] if len(run) else False
            run = run[usable[run]]
            if run_is_okay and len(run) >= LEAST_FRAMES:
                runs.append((run, scale))
    part = np.full(len(found.part), -1)
    runs.sort(key=lambda item: item[0][0])
    for number, (run, _) in enumerate(runs):
        part[run] = number
    return part, factors, [scale for _, scale in runs]


def _scaled_poses(found: Reconstruction, part: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Scale the poses step by step.

    Args:
        found: the reconstruction of N frames.
        part: (N,) part of each frame.
        factors: (N,) factor for lengths at each frame.

    Returns:
        (N, 4, 4) camera-to-world; each part starts at the origin.
    """
    poses = np.full_like(found.poses, np.nan)
    for number in range(part.max(initial=-1) + 1):
        frames = np.flatnonzero(part == number)
        steps = np.diff(found.poses[frames, :3, 3], axis=0)
        scale = (factors[frames[1:]] + factors[frames[:-1]]) / 2
        poses[frames] = found.poses[frames]
        poses[frames, :3, 3] = np.concatenate(
            [np.zeros((1, 3)), np.cumsum(steps * scale[:, None], axis=0)]
        )
    return poses


def _sigma(found: Reconstruction) -> np.ndarray:
    """Relative standard deviation (M,) of each observation's depth: sqrt(2) e / angle.

    e is the error of a ray's direction in radians, from the point's reprojection errors, and angle
    the widest one between the rays to the point.
    """
    square = np.bincount(found.point, found.error.astype(float) ** 2, len(found.angle))
    seen = np.bincount(found.point, minlength=len(found.angle)).clip(1)
    error = np.maximum(np.sqrt(square / seen), NOISE) / found.lens.matrix[0, 0]
    angle = np.maximum(np.radians(found.angle), 1e-6)
    return (np.sqrt(2) * error / angle)[found.point]


def _sky(sequence: Sequence, found: Reconstruction) -> np.ndarray:
    """Bool (M,), whether an observation is labelled as sky."""
    sky = np.zeros(len(found.frame), bool)
    limits = np.searchsorted(found.frame, np.arange(len(found.part) + 1))
    for index, (a, b) in enumerate(zip(limits[:-1], limits[1:], strict=True)):
        labels = frame_labels(sequence, index) if b > a else None
        if labels is not None:
            sky[a:b] = label_at(labels, found.xy[a:b]) == SKY
    return sky


def _held_out(found: Reconstruction) -> np.ndarray:
    """Choose the points to hold out, bool (P,): all points in a tenth of the places.

    A place is a cube in the world whose edge grows with its distance from the camera. One feature
    often gives several points in a place. They are held out together, so that training does not
    see what validation is judged by.
    """
    nearest = np.full(len(found.world), np.inf)
    np.minimum.at(nearest, found.point, found.depth)
    nearest[~np.isfinite(nearest)] = 1
    level = np.round(np.log2(np.maximum(nearest, 1e-9)))
    cell = np.floor(found.world / (PLACE * 2.0 ** level[:, None])).astype(np.int64)
    part = np.zeros(len(found.world), np.int64)
    part[found.point] = found.part[found.frame]
    keys = np.column_stack([part, level.astype(np.int64), cell])
    places, number = np.unique(keys, axis=0, return_inverse=True)
    return (np.random.default_rng(0).random(len(places)) < HELD_OUT)[number.ravel()]
