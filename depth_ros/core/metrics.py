"""How good depth, labels and trajectories are, on plain arrays: no ROS, no files, no printing.

Depth follows Eigen et al. 2014 ("Depth Map Prediction from a Single Image using a Multi-Scale Deep
Network") with the crop of Garg et al. 2016, as every self-supervised depth paper reports it.
Trajectories are aligned and measured by `evo`; snippets follow SfMLearner (Zhou et al. 2017), drift
per distance the development kit of the KITTI odometry benchmark (Geiger et al. 2012).

A pose is a 4x4 matrix that takes points from the camera to the world (or to the first camera).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

IGNORE = 255
"""Class id of pixels that do not count."""

MIN_DEPTH = 1e-3
"""Least depth that counts, metres."""

BANDS = (0.0, 10.0, 20.0, 40.0, 80.0)
"""Limits of the distances that the error of depth is also given for, metres."""


ALIGNED = ('median_scaled', 'scaled_and_shifted')
"""Rows of depth brought to the scale of the truth: by one factor, or by factor and shift."""


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


class JudgedDepth(NamedTuple):
    """A prediction made comparable with its ground truth.

    Attributes:
        depth: float64 (H, W), scaled, then clamped to the limits, metres.
        counts: bool (H, W), the pixels that count.
        scale: What the prediction was multiplied by.
        shift: What was then added to its inverse, 1/m.
    """

    depth: np.ndarray
    counts: np.ndarray
    scale: float
    shift: float = 0.0


def judged_depth(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    min_depth: float = MIN_DEPTH,
    max_depth: float = 80.0,
    median_scaling: bool = False,
    affine: bool = False,
    crop: str | None = None,
    limit_truth: bool = True,
) -> JudgedDepth:
    """Choose the pixels that count, scale the prediction and clamp it, in this order.

    Pixels count where the ground truth is finite and between the limits and the prediction is
    finite and positive.

    Args:
        predicted: Depth along the optical axis, float (H, W), metres (any unit if
            `median_scaling` or `affine`); NaN = invalid.
        truth: The same, metres; NaN or 0 = invalid.
        min_depth, max_depth: Limits, exclusive for the ground truth, metres.
        median_scaling: Multiply the prediction by the ratio of the medians.
        affine: Rather scale and shift the inverse of the prediction, as fits the inverse of the
            truth best by least squares: the protocol of MiDaS (Ranftl et al. 2020) for networks
            that know no more.
        crop: None or 'garg'.
        limit_truth: Whether ground truth outside the limits is left out. False is the protocol
            of KITTI's improved ground truth, where every depth above 0 counts.

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
    return JudgedDepth(
        np.clip(aligned_depth(depth, scale, shift), min_depth, max_depth), counts, scale, shift
    )


def fit_inverse(d: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """Return scale a and shift b for which 1 / (a d) + b is nearest to 1 / g by least squares.

    Depths d and true ones g are (N,), positive. Where d is the same everywhere, a is the ratio of
    the medians and b is 0.
    """
    x, y = 1 / d.astype(np.float64), 1 / g.astype(np.float64)
    spread = x - x.mean()
    slope = float(spread @ (y - y.mean()) / (spread @ spread)) if spread.any() else 0.0
    if slope == 0:
        return float(np.median(g) / np.median(d)), 0.0
    return 1 / slope, float(y.mean() - slope * x.mean())


def aligned_depth(depth: np.ndarray, scale: float, shift: float = 0.0) -> np.ndarray:
    """Return `depth`, of any shape, times `scale`, with its inverse then shifted.

    What comes to lie at infinity or beyond is inf.
    """
    if shift == 0:
        return depth * scale
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = 1 / (depth * scale) + shift
        return np.where(inverse <= 0, np.inf, 1 / inverse).astype(depth.dtype)


def depth_metrics(predicted: np.ndarray, truth: np.ndarray, **options) -> DepthMetrics:
    """Compare one depth image with ground truth: `judged_depth`, which see, then its errors.

    Raises:
        ValueError: The shapes differ, the crop is unknown, or no pixel counts.
    """
    judged = judged_depth(predicted, truth, **options)
    return depth_errors(judged.depth[judged.counts], np.asarray(truth)[judged.counts])


def depth_errors(d: np.ndarray, g: np.ndarray) -> DepthMetrics:
    """Return the seven metrics of depths (N,) against true ones, N > 0, metres."""
    return _metrics_of(_error_terms(d, g).mean(axis=1))


def _error_terms(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """What each metric is the mean, or the root of the mean, of: float64 (7, N)."""
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
    means = means.copy()
    means[2:4] = np.sqrt(means[2:4])
    return DepthMetrics(*means.tolist())


class DepthTable(NamedTuple):
    """The errors of one depth image.

    Attributes:
        rows: Metrics by name; rows without a pixel are left out.
        scale: Factor of median scaling, for the first cap, of the depth as published; NaN without
            a pixel.
        shift: What is added to the inverse after that, 1/m; see `aligned_depth`.
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
    caps: Sequence[float] = (80.0, 50.0),
    edges: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    **options,
) -> DepthTable:
    """Judge one depth image in every way that an evaluation reports.

    For each cap the rows 'median_scaled' and 'as_published', from the second cap on with its
    name ('median_scaled_50m'). Then, median-scaled and for the first cap: 'near_edges', each
    band of distance ('0_to_10m'), and each class ('class:road'). With `affine`, 'median_scaled' is
    'scaled_and_shifted' instead, and the others accordingly.

    Args:
        predicted, truth: Depth as for `judged_depth`.
        factor: What the prediction is multiplied by where it is not scaled, to metres; None for
            a model that is not metric: nothing is then judged as published.
        affine: Whether scale and shift are unknown; see `judged_depth`. Goes with no `factor`.
        caps: Largest true depths, metres.
        edges: Bool (H, W), pixels near a semantic edge.
        labels: Class ids (H, W) of the pixels; 255 = none.
        names: Of the classes by id.
        options: Of `judged_depth`.
    """
    rows: dict[str, DepthMetrics] = {}
    parts: dict[str, DepthMetrics] = {}
    scale, shift = float('nan'), 0.0
    name = ALIGNED[affine]
    for cap in caps:
        first = cap == caps[0]
        suffix = '' if first else f'_{cap:g}m'
        try:
            judged = judged_depth(
                predicted, truth, max_depth=cap, median_scaling=True, affine=affine, **options
            )
        except ValueError:  # no pixel counts
            continue
        d, g = judged.depth[judged.counts], truth[judged.counts]
        terms = _error_terms(d, g)
        rows[f'{name}{suffix}'] = _metrics_of(terms.mean(axis=1))
        if factor is not None:
            low = options.get('min_depth', MIN_DEPTH)
            plain = np.clip(predicted[judged.counts].astype(np.float64) * factor, low, cap)
            rows[f'as_published{suffix}'] = depth_errors(plain, g)
        if not first:
            continue
        scale, shift = judged.scale / (factor or 1.0), judged.shift
        if edges is not None and (near := edges[judged.counts]).any():
            parts['near_edges'] = _metrics_of(terms[:, near].mean(axis=1))
        bands = [f'{a:g}_to_{b:g}m' for a, b in itertools.pairwise(BANDS)]
        parts |= _by_group(terms, np.searchsorted(BANDS, g, side='right') - 1, bands)
        if labels is not None:
            parts |= _by_group(terms, labels[judged.counts], [f'class:{n}' for n in names])
    return DepthTable(rows | parts, scale, shift)


def _by_group(
    terms: np.ndarray, group: np.ndarray, names: Sequence[str]
) -> dict[str, DepthMetrics]:
    """Metrics by name of the pixels of each group 0, 1, ...; other numbers belong to none."""
    group = np.where((group >= 0) & (group < len(names)), group, len(names)).astype(np.intp)
    counts = np.bincount(group, minlength=len(names) + 1)
    sums = np.stack([np.bincount(group, t, len(names) + 1) for t in terms])
    return {name: _metrics_of(sums[:, i] / counts[i]) for i, name in enumerate(names) if counts[i]}


def edge_mask(labels: np.ndarray, radius: float) -> np.ndarray:
    """Return which pixels, bool (H, W), lie within `radius` pixels of a semantic edge.

    An edge runs between two pixels that touch along a side and are of different classes; one to
    an unlabelled pixel (255) is none. Radius 1 is the pixels on both sides of the edge, radius 2
    their neighbours too, and so on, by Euclidean distance.

    Raises:
        ValueError: `labels` is not (H, W) or the radius is not positive.
    """
    import cv2

    labels = np.asarray(labels)
    if labels.ndim != 2 or not radius > 0:
        raise ValueError(f'labels {labels.shape} must be (H, W) and the radius {radius} positive')
    away = np.ones(labels.shape, np.uint8)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edge = (labels[a] != labels[b]) & (labels[a] != IGNORE) & (labels[b] != IGNORE)
        away[a][edge] = 0
        away[b][edge] = 0
    if away.all():
        return np.zeros(labels.shape, bool)
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < radius


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


def semantics_table(matrix: np.ndarray, names: Sequence[str]) -> dict:
    """Return what an evaluation reports of a `confusion`: mean_iou, pixel_accuracy, and iou by name
    of the classes that the ground truth has.

    Raises:
        ValueError: The ground truth has no pixel of any class.
    """
    present = matrix.sum(axis=1) > 0
    return {
        'mean_iou': mean_iou(matrix),
        'pixel_accuracy': float(np.trace(matrix) / matrix.sum()),
        'iou': {n: float(v) for n, v, p in zip(names, iou(matrix), present, strict=True) if p},
    }


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
    estimate, truth = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)

    def aligned(with_scale: bool) -> tuple[np.ndarray, float]:
        rotation, translation, scale = _alignment(estimate, truth, with_scale)
        return scale * estimate @ rotation.T + translation, scale

    rigid, _ = aligned(False)
    similar, scale = aligned(True)

    def rmse(path: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.sum((path - truth) ** 2, axis=1))))

    return TrajectoryMetrics(rmse(rigid), rmse(similar), scale, path_length(truth), similar)


Alignment = Literal['se3', 'sim3', 'scale']


class PoseMetrics(NamedTuple):
    """How estimated poses compare with the true ones.

    Attributes:
        ate: Absolute trajectory error: RMSE of the positions after alignment, metres.
        rpe_translation: Relative pose error of consecutive poses, RMSE of its translation, metres.
        rpe_rotation: The same, RMSE of its angle, degrees.
        scale: Factor that the alignment gives to the estimate.
        aligned: The aligned estimate, (N, 4, 4).
    """

    ate: float
    rpe_translation: float
    rpe_rotation: float
    scale: float
    aligned: np.ndarray


def pose_metrics(estimate: np.ndarray, truth: np.ndarray, alignment: Alignment) -> PoseMetrics:
    """Compare estimated poses with the true ones, through `evo`.

    Args:
        estimate, truth: Poses at the same instants, (N, 4, 4), N >= 2, metres.
        alignment: What the whole estimate is first fitted to the truth with: 'se3' (evo's
            `--align`), 'sim3' (`--align --correct_scale`), or 'scale': the first poses are laid
            on each other and the rest is scaled (`--align_origin --correct_scale`).

    Raises:
        ValueError: The shapes differ, there are fewer than two poses, one is not finite, the
            estimate or the truth does not move, or the alignment is unknown.
    """
    from evo.core import metrics
    from evo.core.trajectory import PosePath3D

    if alignment not in ('se3', 'sim3', 'scale'):
        raise ValueError(f"alignment {alignment!r} is unknown: use 'se3', 'sim3' or 'scale'")
    estimate, truth = _poses(estimate), _poses(truth)
    rotation, translation, scale = _alignment(
        estimate[:, :3, 3], truth[:, :3, 3], alignment != 'se3'
    )
    if alignment == 'scale':
        aligned = scaled_poses(estimate, scale)
        aligned = truth[0] @ np.linalg.inv(aligned[0]) @ aligned
    else:
        transform = np.eye(4)
        transform[:3, :3], transform[:3, 3] = rotation, translation
        aligned = transform @ scaled_poses(estimate, scale)
    paths = tuple(PosePath3D(poses_se3=list(orthonormal(p))) for p in (truth, aligned))

    def rmse(metric: metrics.PE) -> float:
        metric.process_data(paths)
        return float(metric.get_statistic(metrics.StatisticsType.rmse))

    relation = metrics.PoseRelation
    return PoseMetrics(
        ate=rmse(metrics.APE(relation.translation_part)),
        rpe_translation=rmse(metrics.RPE(relation.translation_part)),
        rpe_rotation=rmse(metrics.RPE(relation.rotation_angle_deg)),
        scale=scale,
        aligned=aligned,
    )


def scaled_poses(poses: np.ndarray, scale: float) -> np.ndarray:
    """Return poses (N, 4, 4) with their translations multiplied by `scale`."""
    poses = poses.copy()
    poses[:, :3, 3] *= scale
    return poses


class SnippetMetrics(NamedTuple):
    """Errors of a snippet of poses, SfMLearner's measure of odometry.

    Attributes:
        ate: |scale * estimate - truth| / N over all N positions together (a Frobenius norm, *not*
            a root mean square), metres.
        re: Mean angle between estimated and true orientation, radians.
    """

    ate: float
    re: float


def snippet_metrics(estimate: np.ndarray, truth: np.ndarray) -> SnippetMetrics:
    """Compare a snippet of (usually five) poses with the true ones.

    Both are taken relative to their first pose; then the scale that fits the positions best,
    sum(truth * estimate) / sum(estimate^2), is given to the estimate. SfMLearner's paper (section
    4.4) calls the result the absolute trajectory error; its code divides the norm by N, and so
    does every number published since. The rotation error is that of its PyTorch port.

    Args:
        estimate, truth: Poses at the same instants, (N, 4, 4), N >= 2.

    Raises:
        ValueError: The shapes differ, there are fewer than two poses or one is not finite.
    """
    estimate, truth = _poses(estimate), _poses(truth)
    _check_alike(estimate, truth)
    estimate, truth = (np.linalg.inv(p[0]) @ p for p in (estimate, truth))
    e, t = estimate[:, :3, 3], truth[:, :3, 3]
    # An estimate that stands still is at the first position whatever its scale.
    scale = np.sum(t * e) / np.sum(e**2) if e.any() else 0.0
    angles = _angles(np.linalg.inv(estimate) @ truth)
    return SnippetMetrics(float(np.linalg.norm(scale * e - t) / len(t)), float(angles.mean()))


KITTI_LENGTHS = (100, 200, 300, 400, 500, 600, 700, 800)
"""Lengths of the segments that drift is averaged over, metres."""


class Drift(NamedTuple):
    """Drift over segments of a path.

    Attributes:
        t_err: Mean translation error, percent of the segment's length.
        r_err: Mean rotation error, degrees per 100 m.
        segments: Number of segments.
    """

    t_err: float
    r_err: float
    segments: int


def kitti_drift(
    estimate: np.ndarray, truth: np.ndarray, lengths: Iterable[float] = KITTI_LENGTHS
) -> Drift:
    """Return the drift that KITTI's odometry benchmark ranks by.

    From every tenth frame on, for each length, the segment ends at the first frame that is
    farther away along the true path; the relative pose over it is compared with the true one. As
    the benchmark is metric, scale an estimate of unknown scale first (`pose_metrics`).

    Args:
        estimate: Poses, (N, 4, 4), metres; NaN where there is none: segments that begin or end
            there are left out.
        truth: True poses at the same instants, (N, 4, 4), metres.
        lengths: Lengths of the segments, metres.

    Raises:
        ValueError: The shapes differ, or no segment is within the path.
    """
    estimate, truth = np.asarray(estimate, np.float64), _poses(truth)
    if estimate.shape != truth.shape:
        raise ValueError(f'estimate {estimate.shape} and truth {truth.shape} must be alike')
    steps = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    known = np.isfinite(estimate).all(axis=(1, 2))
    starts = np.arange(0, len(truth), 10)
    translation, rotation = [], []
    for length in lengths:
        ends = np.searchsorted(distance, distance[starts] + length, side='right')
        within = ends < len(truth)
        first, last = starts[within], ends[within]
        both = known[first] & known[last]
        first, last = first[both], last[both]
        moved, should = (np.linalg.inv(p[first]) @ p[last] for p in (estimate, truth))
        error = np.linalg.inv(moved) @ should
        translation.append(np.linalg.norm(error[:, :3, 3], axis=1) / length)
        rotation.append(_angles(error) / length)
    errors = np.concatenate(translation)
    if not len(errors):
        raise ValueError(
            f'no segment to measure drift on: the path is {distance[-1]:.0f} m long, the shortest '
            f'segment {min(lengths)} m'
        )
    return Drift(
        t_err=100 * float(errors.mean()),
        r_err=100 * float(np.degrees(np.concatenate(rotation).mean())),
        segments=len(errors),
    )


def trajectory_table(
    estimate: np.ndarray, truth: np.ndarray, snippets: Sequence[SnippetMetrics] = ()
) -> dict[str, float]:
    """Return every number that an evaluation reports of one trajectory.

    Args:
        estimate, truth: Poses (N, 4, 4), metres (the estimate may be in other units).
        snippets: Of the same trajectory.

    Raises:
        ValueError: See `pose_metrics`.
    """
    found = {name: pose_metrics(estimate, truth, name) for name in ('se3', 'sim3', 'scale')}
    numbers = {
        'frames': len(truth),
        'length': path_length(truth[:, :3, 3]),
        'scale': found['sim3'].scale,
    }
    for name, metrics in found.items():
        numbers[f'ate_{name}'] = metrics.ate
        numbers[f'rpe_{name}'] = metrics.rpe_translation
    numbers['rpe_rotation_deg'] = found['se3'].rpe_rotation
    if snippets:
        ate, re = np.array(snippets).T
        numbers |= {
            'snippet_ate': ate.mean(),
            'snippet_ate_std': ate.std(),
            'snippet_re': re.mean(),
            'snippet_re_std': re.std(),
        }
    if numbers['length'] > KITTI_LENGTHS[0]:
        for name in ('se3', 'sim3'):
            drift = kitti_drift(found[name].aligned, truth)
            numbers |= {
                f't_err_{name}': drift.t_err,
                'r_err': drift.r_err,
                'segments': drift.segments,
            }
    return {name: float(value) for name, value in numbers.items()}


def _angles(transforms: np.ndarray) -> np.ndarray:
    """Angles of rotation (N,) of transforms (N, 4, 4), radians; accurate for small ones too."""
    r = transforms[:, :3, :3]
    twice_sine = np.linalg.norm(
        [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=0
    )
    return np.arctan2(twice_sine, np.trace(r, axis1=1, axis2=2) - 1)


def _poses(poses: np.ndarray) -> np.ndarray:
    poses = np.asarray(poses, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f'poses {poses.shape} must be (N, 4, 4)')
    return poses


def orthonormal(poses: np.ndarray) -> np.ndarray:
    """Return poses (N, 4, 4) with the nearest rotations, since a text file rounds them."""
    u, _, v = np.linalg.svd(poses[:, :3, :3])
    poses = poses.copy()
    poses[:, :3, :3] = u @ v
    return poses


def _check_alike(estimate: np.ndarray, truth: np.ndarray) -> None:
    if estimate.shape != truth.shape or len(truth) < 2:
        raise ValueError(
            f'estimate {estimate.shape} and truth {truth.shape} must be the same two or more'
        )
    if not (np.isfinite(estimate).all() and np.isfinite(truth).all()):
        raise ValueError('a pose is not finite')


def _alignment(
    estimate: np.ndarray, truth: np.ndarray, with_scale: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotation, translation and scale that fit positions (N, 3) to the true ones.

    Raises:
        ValueError: see `trajectory_metrics`.
    """
    from evo.core.geometry import GeometryException, umeyama_alignment

    if estimate.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != 3 or len(truth) < 2:
        raise ValueError(
            f'estimate {estimate.shape} and truth {truth.shape} must be the same two or more 3D '
            'positions'
        )
    if not (np.isfinite(estimate).all() and np.isfinite(truth).all()):
        raise ValueError('a position is not finite')
    for name, path in (('estimate', estimate), ('truth', truth)):
        if path_length(path) < 1e-9:
            raise ValueError(f'the {name} does not move, so the paths cannot be aligned')
    try:
        rotation, translation, scale = umeyama_alignment(estimate.T, truth.T, with_scale)
    except GeometryException:
        rotation, translation, scale = _straight_alignment(estimate, truth, with_scale)
    return rotation, translation, float(scale)


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
