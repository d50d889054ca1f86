"""From a reconstruction to ``structure.npz``: metres, what is good enough, and what is held out."""

from __future__ import annotations

import numpy as np

from depth_ros.evaluation.structure import Structure
from train.data.sequences import Sequence
from train.structure.reconstruct import SKY, Reconstruction
from train.structure.scale import Scale, frame_labels, label_at

HELD_OUT = 0.1  # of the places
MAX_ERROR = 2.0  # pixels; more is a wrong match
MAX_SIGMA = 0.2  # relative; more is no depth
NOISE = 0.3  # pixels, that a feature's place is unsure by at least
LEAST_POINTS = 20  # a frame with fewer is not registered well enough to learn from
PLACE = 0.03  # size of one place, by its distance: points closer together are of the same


def assemble(sequence: Sequence, found: Reconstruction, scales: list[Scale]) -> Structure:
    """The structure of a sequence.

    Args:
        sequence: its images and labels.
        found: what was reconstructed.
        scales: of each part.
    """
    sigma = _sigma(found)
    good = (found.error < MAX_ERROR) & (sigma < MAX_SIGMA) & ~_sky(sequence, found)
    counts = np.bincount(found.frame[good], minlength=len(found.part))
    part = np.where(counts >= LEAST_POINTS, found.part, -1)
    good &= part[found.frame] >= 0
    factors = np.ones(found.parts)
    for number in range(found.parts):
        there = good & (found.part[found.frame] == number)
        if np.isfinite(scales[number].factor):
            factors[number] = scales[number].factor
        elif there.any():
            factors[number] = 1 / float(np.median(found.depth[there]))
    poses = found.poses.copy()
    poses[:, :3, 3] *= factors[found.part.clip(0)][:, None]
    poses[part < 0] = np.nan
    frame = found.frame[good]
    point = found.point[good]
    return Structure(
        part=part.astype(np.int32),
        poses=poses,
        metric_spread=np.array([s.spread for s in scales], np.float32),
        starts=np.searchsorted(frame, np.arange(len(part) + 1)),
        xy=found.xy[good],
        depth=(found.depth[good] * factors[found.part[frame]]).astype(np.float32),
        sigma=sigma[good].astype(np.float32),
        error=found.error[good],
        track=found.track[point].astype(np.int32),
        angle=found.angle[point],
        point=point.astype(np.int32),
        held_out=_held_out(found)[point],
        intrinsics=found.lens.matrix,
    )


def _sigma(found: Reconstruction) -> np.ndarray:
    """Relative standard deviation (M,) of each observation's depth.

    Two rays that meet at an angle say a distance as surely as they say directions, divided by the
    angle.
    """
    square = np.bincount(found.point, found.error.astype(float) ** 2, len(found.angle))
    seen = np.bincount(found.point, minlength=len(found.angle)).clip(1)
    error = np.maximum(np.sqrt(square / seen), NOISE) / found.lens.matrix[0, 0]
    angle = np.maximum(np.radians(found.angle), 1e-6)
    return (np.sqrt(2) * error / angle)[found.point]


def _sky(sequence: Sequence, found: Reconstruction) -> np.ndarray:
    """Bool (M,), whether the labels say that an observation is of the sky."""
    sky = np.zeros(len(found.frame), bool)
    limits = np.searchsorted(found.frame, np.arange(len(found.part) + 1))
    for index, (a, b) in enumerate(zip(limits[:-1], limits[1:], strict=True)):
        labels = frame_labels(sequence, index) if b > a else None
        if labels is not None:
            sky[a:b] = label_at(labels, found.xy[a:b]) == SKY
    return sky


def _held_out(found: Reconstruction) -> np.ndarray:
    """Bool (P,), a tenth of the places in the world, with all points that lie there.

    A feature often gives several points at one place: all of them must be held out, or training
    would see what validation asks.
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
