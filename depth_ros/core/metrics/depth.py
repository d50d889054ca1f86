"""Errors of depth images against ground truth.

The protocol is that of Eigen et al. 2014 ("Depth Map Prediction from a Single Image using a
Multi-Scale Deep Network") with the crop of Garg et al. 2016, as every self-supervised depth paper
reports it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

MIN_DEPTH = 1e-3
"""Least depth that counts, metres."""

CAPS = (80.0, 50.0)
"""Farthest true depths that count, as papers on KITTI have them, metres."""

BANDS = (0.0, 10.0, 20.0, 40.0, 80.0)
"""Borders between the ranges of distance whose errors are also reported apart, metres."""

ALIGNED = ('median_scaled', 'scaled_and_shifted')
"""Names of the rows of depth that was first brought to the scale of the truth: by one factor, or by
a factor and a shift of its inverse."""


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


class PreparedDepth(NamedTuple):
    """A prediction made comparable with its ground truth.

    Attributes:
        depth: Prediction, scaled, then clamped to the limits, float64 (H, W), metres.
        valid: bool (H, W), the pixels that count.
        scale: Factor that the prediction was multiplied with.
        shift: What was then added to the inverse of the prediction, 1/m.
    """

    depth: np.ndarray
    valid: np.ndarray
    scale: float
    shift: float = 0.0


def prepare_depth(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    min_depth: float = MIN_DEPTH,
    max_depth: float = 80.0,
    median_scaling: bool = False,
    affine: bool = False,
    crop: str | None = None,
    limit_truth: bool = True,
) -> PreparedDepth:
    """Choose the pixels that count, then scale the prediction, then clamp it.

    Pixels count where the ground truth is finite and between the limits and the prediction is
    finite and positive.

    Args:
        predicted: Depth along the optical axis, float (H, W), metres (any unit if
            `median_scaling` or `affine`); NaN = invalid.
        truth: The same, metres; NaN or 0 = invalid.
        min_depth, max_depth: Limits, exclusive for the ground truth, metres.
        median_scaling: Multiply the prediction by the ratio of the medians.
        affine: Instead, scale and shift the inverse of the prediction so that it fits the inverse
            of the truth best by least squares: the protocol of MiDaS (Ranftl et al. 2020) for
            networks that know depth only up to scale and shift.
        crop: None or 'garg'.
        limit_truth: Whether ground truth outside the limits is left out. False is the protocol
            of KITTI's improved ground truth, where every depth above 0 counts.

    Raises:
        ValueError: if the shapes differ, the crop is unknown, or no pixel counts.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f'prediction {predicted.shape} and ground truth {truth.shape} must be (H, W) alike'
        )
    if crop not in (None, 'garg'):
        raise ValueError(f"crop {crop!r} is unknown: use None or 'garg'")
    low, high = (min_depth, max_depth) if limit_truth else (0.0, np.inf)
    with np.errstate(invalid='ignore'):
        counts = (truth > low) & (truth < high) & (predicted > 0) & np.isfinite(predicted)
    if crop == 'garg':
        inside = np.zeros_like(counts)
        inside[garg_crop(*truth.shape)] = True
        counts &= inside
    if not counts.any():
        raise ValueError(
            f'no valid pixels: nowhere has the ground truth a depth between {low} and '
            f'{high} m and the prediction a positive one'
        )
    depth = predicted.astype(np.float64)
    scale, shift = 1.0, 0.0
    if affine:
        scale, shift = fit_inverse(depth[counts], truth[counts])
    elif median_scaling:
        scale = float(np.median(truth[counts].astype(np.float64)) / np.median(depth[counts]))
    return PreparedDepth(
        np.clip(aligned_depth(depth, scale, shift), min_depth, max_depth), counts, scale, shift
    )


def fit_inverse(d: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """Return scale a and shift b for which 1 / (a d) + b is nearest to 1 / g by least squares.

    Depths d and true depths g are (N,), positive. If all d are equal, a is the ratio of the medians
    and b is 0.
    """
    x, y = 1 / d.astype(np.float64), 1 / g.astype(np.float64)
    spread = x - x.mean()
    slope = float(spread @ (y - y.mean()) / (spread @ spread)) if spread.any() else 0.0
    if slope == 0:
        return float(np.median(g) / np.median(d)), 0.0
    return 1 / slope, float(y.mean() - slope * x.mean())


def aligned_depth(depth: np.ndarray, scale: float, shift: float = 0.0) -> np.ndarray:
    """Return 1 / (1 / (`depth` * `scale`) + `shift`), for depth of any shape.

    Where the shifted inverse is zero or negative, the point is at infinity or beyond: inf.
    """
    if shift == 0:
        return depth * scale
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = 1 / (depth * scale) + shift
        return np.where(inverse <= 0, np.inf, 1 / inverse).astype(depth.dtype)


def depth_errors(d: np.ndarray, g: np.ndarray) -> DepthMetrics:
    """Return the seven metrics of depths d against true depths g, both (N,), N > 0, metres."""
    return _metrics_of(_error_terms(d, g).mean(axis=1))


def _error_terms(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return the terms of each pixel whose mean (or its root) is a metric, float64 (7, N)."""
    d, g = d.astype(np.float64), g.astype(np.float64)
    error = d - g
    square = error * error
    quotient = d / g
    ratio = np.maximum(quotient, 1 / quotient)
    return np.stack(
        [
            np.abs(error) / g,
            square / g,
            square,
            np.log(quotient) ** 2,
            ratio < 1.25,
            ratio < 1.25**2,
            ratio < 1.25**3,
        ]
    )


def _metrics_of(means: np.ndarray) -> DepthMetrics:
    """Return the metrics from the means (7,) of `_error_terms`."""
    means = means.copy()
    means[2:4] = np.sqrt(means[2:4])
    return DepthMetrics(*means.tolist())


class DepthTable(NamedTuple):
    """The errors of one depth image.

    Attributes:
        rows: Metrics by name; rows without a pixel are left out.
        scale: Factor of median scaling for the first cap, relative to the depth as published; NaN
            if no pixel counts.
        shift: What is added to the inverse after scaling, 1/m; see `aligned_depth`.
    """

    rows: dict[str, DepthMetrics]
    scale: float
    shift: float = 0.0

    @property
    def aligned(self) -> DepthMetrics:
        """The row of the depth brought to the scale of the truth."""
        return next(self.rows[name] for name in ALIGNED if name in self.rows)


def depth_table(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    factor: float | None = 1.0,
    affine: bool = False,
    caps: Sequence[float] = CAPS,
    edges: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    **options,
) -> DepthTable:
    """Return all errors of one depth image that an evaluation reports.

    There are rows 'median_scaled' and 'as_published' for each cap; those of further caps carry its
    name ('median_scaled_50m'). Further rows, median-scaled and for the first cap, are 'near_edges',
    each range of distance ('0_to_10m') and each class ('class:road'). With `affine`,
    'scaled_and_shifted' takes the place of 'median_scaled'.

    Args:
        predicted, truth: Depth as for `prepare_depth`.
        factor: Brings the prediction to metres in the rows 'as_published'; None for a model that
            is not metric, which leaves these rows out.
        affine: Whether scale and shift are unknown; see `prepare_depth`. Needs `factor` None.
        caps: Largest true depths, metres.
        edges: Pixels near a semantic edge, bool (H, W).
        labels: Class ids (H, W) of the pixels; 255 = none.
        names: Names of the classes by id.
        options: Further arguments of `prepare_depth`.
    """
    rows: dict[str, DepthMetrics] = {}
    parts: dict[str, DepthMetrics] = {}
    scale, shift = float('nan'), 0.0
    name = ALIGNED[affine]
    for cap in caps:
        first = cap == caps[0]
        suffix = '' if first else f'_{cap:g}m'
        try:
            prepared = prepare_depth(
                predicted, truth, max_depth=cap, median_scaling=True, affine=affine, **options
            )
        except ValueError:  # no pixel counts
            continue
        d, g = prepared.depth[prepared.valid], truth[prepared.valid]
        terms = _error_terms(d, g)
        rows[f'{name}{suffix}'] = _metrics_of(terms.mean(axis=1))
        if factor is not None:
            low = options.get('min_depth', MIN_DEPTH)
            plain = np.clip(predicted[prepared.valid].astype(np.float64) * factor, low, cap)
            rows[f'as_published{suffix}'] = depth_errors(plain, g)
        if not first:
            continue
        scale, shift = prepared.scale / (factor or 1.0), prepared.shift
        if edges is not None and (near := edges[prepared.valid]).any():
            parts['near_edges'] = _metrics_of(terms[:, near].mean(axis=1))
        bands = [f'{a:g}_to_{b:g}m' for a, b in itertools.pairwise(BANDS)]
        parts |= _by_group(terms, np.searchsorted(BANDS, g, side='right') - 1, bands)
        if labels is not None:
            parts |= _by_group(terms, labels[prepared.valid], [f'class:{n}' for n in names])
    return DepthTable(rows | parts, scale, shift)


def _by_group(
    terms: np.ndarray, group: np.ndarray, names: Sequence[str]
) -> dict[str, DepthMetrics]:
    """Return the metrics of each group of pixels by name.

    Args:
        terms: Of `_error_terms`, (7, N).
        group: Index into `names` of each pixel, (N,); other numbers mean no group.
        names: Names of the groups.
    """
    group = np.where((group >= 0) & (group < len(names)), group, len(names)).astype(np.intp)
    counts = np.bincount(group, minlength=len(names) + 1)
    sums = np.stack([np.bincount(group, t, len(names) + 1) for t in terms])
    return {name: _metrics_of(sums[:, i] / counts[i]) for i, name in enumerate(names) if counts[i]}


def mean_depth_metrics(images: Iterable[DepthMetrics]) -> DepthMetrics:
    """Average the metrics of several images, each image with the same weight.

    Raises:
        ValueError: if there is no image.
    """
    rows = np.array(list(images), np.float64)
    if not len(rows):
        raise ValueError('no images to average: no frame has both a prediction and ground truth')
    return DepthMetrics(*rows.mean(axis=0).tolist())
