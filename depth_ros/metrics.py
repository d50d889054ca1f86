"""How good depth, labels and trajectories are, on plain arrays: no ROS, no files, no printing.

Depth follows Eigen et al. 2014 ("Depth Map Prediction from a Single Image using a Multi-Scale Deep
Network") with the crop of Garg et al. 2016, as every self-supervised depth paper reports it.
Trajectories are aligned and measured by `evo`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

IGNORE = 255
"""Class id of pixels that do not count."""


class DepthMetrics(NamedTuple):
    """The seven depth metrics; d is the prediction and g the ground truth, both in metres.

    Attributes:
        abs_rel: mean of |d - g| / g.
        sq_rel: mean of (d - g)^2 / g, metres.
        rmse: root of the mean of (d - g)^2, metres.
        rmse_log: root of the mean of (ln d - ln g)^2.
        a1, a2, a3: share of pixels with max(d/g, g/d) under 1.25, 1.25^2, 1.25^3.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float


def garg_crop(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of Garg et al.'s crop of a (height, width) image."""
    rows = (np.array([0.40810811, 0.99189189]) * height).astype(int)
    columns = (np.array([0.03594771, 0.96405229]) * width).astype(int)
    return slice(*rows), slice(*columns)


def depth_metrics(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    median_scaling: bool = False,
    crop: str | None = None,
) -> DepthMetrics:
    """Compare one depth image with ground truth.

    Pixels count where the ground truth is finite and between the limits and the prediction is
    finite and positive. The prediction is clamped to the limits, after scaling.

    Args:
        predicted: Depth along the optical axis, float (H, W), metres (any unit if
            `median_scaling`); NaN = invalid.
        truth: The same, metres; NaN or 0 = invalid.
        min_depth, max_depth: Limits, exclusive for the ground truth, metres.
        median_scaling: Multiply the prediction by the ratio of the medians first.
        crop: None or 'garg'.

    Raises:
        ValueError: The shapes differ, the crop is unknown, or no pixel counts.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f'prediction {predicted.shape} and ground truth {truth.shape} must be (H, W) alike'
        )
    if crop not in (None, 'garg'):
        raise ValueError(f"crop {crop!r} is unknown: use None or 'garg'")
    if crop == 'garg':
        window = garg_crop(*truth.shape)
        predicted, truth = predicted[window], truth[window]
    with np.errstate(invalid='ignore'):
        counts = (truth > min_depth) & (truth < max_depth) & (predicted > 0)
    counts &= np.isfinite(predicted)
    if not counts.any():
        raise ValueError(
            f'no valid pixels: nowhere has the ground truth a depth between {min_depth} and '
            f'{max_depth} m and the prediction a positive one'
        )
    d = predicted[counts].astype(np.float64)
    g = truth[counts].astype(np.float64)
    if median_scaling:
        d *= np.median(g) / np.median(d)
    d = np.clip(d, min_depth, max_depth)
    error = d - g
    ratio = np.maximum(d / g, g / d)
    return DepthMetrics(
        abs_rel=float(np.mean(np.abs(error) / g)),
        sq_rel=float(np.mean(error**2 / g)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(np.mean(np.log(d / g) ** 2))),
        a1=float(np.mean(ratio < 1.25)),
        a2=float(np.mean(ratio < 1.25**2)),
        a3=float(np.mean(ratio < 1.25**3)),
    )


def mean_depth_metrics(images: Iterable[DepthMetrics]) -> DepthMetrics:
    """Average the metrics of several images, each image with the same weight.

    Raises:
        ValueError: There is no image.
    """
    rows = np.array(list(images), np.float64)
    if not len(rows):
        raise ValueError('no images to average: no frame has both a prediction and ground truth')
    return DepthMetrics(*rows.mean(axis=0).tolist())


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        predicted, truth: Class ids, integers (H, W). Pixels whose truth is 255 do not count;
            a predicted 255 is a miss of the true class.
        classes: Number of classes.

    Returns:
        int64 (classes, classes + 1): row = truth, column = prediction, the last one = 255.

    Raises:
        ValueError: The shapes differ or an id is neither a class nor 255.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape:
        raise ValueError(f'prediction {predicted.shape} and ground truth {truth.shape} differ')
    for name, ids in (('prediction', predicted), ('ground truth', truth)):
        strange = ids[(ids >= classes) & (ids != IGNORE)]
        if strange.size:
            raise ValueError(f'{name} has class id {strange[0]}, but there are {classes} classes')
    counts = truth != IGNORE
    row = truth[counts].astype(np.int64)
    column = np.minimum(predicted[counts], classes).astype(np.int64)
    flat = np.bincount(row * (classes + 1) + column, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return each class's intersection over union, float64 (classes,), from `confusion`.

    NaN where a class is neither in the truth nor in the prediction.
    """
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=1) + matrix[:, : len(matrix)].sum(axis=0) - hits
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(union > 0, hits / union, np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mean IoU over the classes that the ground truth has, from `confusion`.

    Raises:
        ValueError: The ground truth has no pixel of any class.
    """
    present = matrix.sum(axis=1) > 0
    if not present.any():
        raise ValueError('no labelled pixels: the ground truth is 255 everywhere')
    return float(iou(matrix)[present].mean())


class TrajectoryMetrics(NamedTuple):
    """How an estimated path compares with the true one.

    Attributes:
        ate_se3: Absolute trajectory error, RMSE after rigid alignment, metres.
        ate_sim3: The same after alignment that also fits the scale, metres.
        scale: Factor that the scale alignment gives to the estimate.
        length: Length of the true path, metres.
        aligned: The estimate after Sim(3) alignment, (N, 3), metres.
    """

    ate_se3: float
    ate_sim3: float
    scale: float
    length: float
    aligned: np.ndarray


def path_length(positions: np.ndarray) -> float:
    """Return the length of a path of positions (N, 3)."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def trajectory_metrics(estimate: np.ndarray, truth: np.ndarray) -> TrajectoryMetrics:
    """Compare an estimated path with the true one.

    The alignment is Umeyama's (PAMI 1991). On an exactly straight path, whose rotation about
    itself is open, any of the equally good rotations is taken.

    Args:
        estimate, truth: Positions at the same instants, (N, 3), N >= 2, metres.

    Raises:
        ValueError: The shapes differ, there are fewer than two positions, one is not finite, or
            the estimate or the truth does not move.
    """
    from evo.core.geometry import GeometryException, umeyama_alignment

    estimate, truth = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    if estimate.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != 3 or len(truth) < 2:
        raise ValueError(
            f'estimate {estimate.shape} and truth {truth.shape} must be the same two or more 3D '
            'positions'
        )
    if not (np.isfinite(estimate).all() and np.isfinite(truth).all()):
        raise ValueError('a position is not finite')
    length = path_length(truth)
    for name, path in (('estimate', estimate), ('truth', truth)):
        if path_length(path) < 1e-9:
            raise ValueError(f'the {name} does not move, so the paths cannot be aligned')

    def aligned(with_scale: bool) -> tuple[np.ndarray, float]:
        try:
            rotation, translation, scale = umeyama_alignment(estimate.T, truth.T, with_scale)
        except GeometryException:
            rotation, translation, scale = _straight_alignment(estimate, truth, with_scale)
        return scale * estimate @ rotation.T + translation, float(scale)

    rigid, _ = aligned(False)
    similar, scale = aligned(True)

    def rmse(path: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.sum((path - truth) ** 2, axis=1))))

    return TrajectoryMetrics(rmse(rigid), rmse(similar), scale, length, similar)


def _straight_alignment(
    estimate: np.ndarray, truth: np.ndarray, with_scale: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Align collinear positions, which `evo` refuses; returns rotation, translation, scale."""
    from scipy.spatial.transform import Rotation

    start, end = estimate.mean(axis=0), truth.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # the rotation is not unique: known
        rotation = Rotation.align_vectors(truth - end, estimate - start)[0].as_matrix()
    turned = (estimate - start) @ rotation.T
    scale = float(np.sum(turned * (truth - end)) / np.sum(turned**2)) if with_scale else 1.0
    return rotation, end - scale * rotation @ start, scale
