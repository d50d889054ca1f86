"""Errors of trajectories against ground truth.

A pose is a 4x4 matrix that takes points from the camera to the world (or to the first camera).
Written below, P_i is an estimated pose after alignment and Q_i the true one at the same instant,
i = 1..N; trans() is the translation of a pose and angle() the angle of its rotation.

* Alignment: Umeyama 1991, "Least-squares estimation of transformation parameters between two point
  patterns", IEEE PAMI 13(4).
* ATE and RPE: Sturm et al. 2012, "A benchmark for the evaluation of RGB-D SLAM systems", IROS.
* Drift over segments: Geiger et al. 2012, "Are we ready for autonomous driving? The KITTI vision
  benchmark suite", CVPR, as its development kit computes it.
* Snippets: SfMLearner, Zhou et al. 2017, "Unsupervised learning of depth and ego-motion from
  video", CVPR.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

Alignment = Literal['se3', 'sim3', 'scale']

KITTI_LENGTHS = (100, 200, 300, 400, 500, 600, 700, 800)
"""Lengths of the segments that drift is averaged over, metres."""


class Similarity(NamedTuple):
    """The similarity transform y = scale * rotation @ x + translation.

    Attributes:
        rotation: Rotation matrix, (3, 3).
        translation: (3,), in the unit of y.
        scale: Above 0.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float

    def poses(self, poses: np.ndarray) -> np.ndarray:
        """Apply the transform to poses (N, 4, 4): their positions are also scaled."""
        transform = np.eye(4)
        transform[:3, :3], transform[:3, 3] = self.rotation, self.translation
        return transform @ scaled_poses(poses, self.scale)


def umeyama_alignment(estimate: np.ndarray, truth: np.ndarray, with_scale: bool) -> Similarity:
    """Return the similarity that brings estimated positions nearest to the true ones.

    It minimises 1/N sum |y_i - (c R x_i + t)|^2 over rotations R, translations t and, unless it is
    held at 1, the scale c (Umeyama 1991). With means mu_x and mu_y, variance s_x^2 of the x_i and
    the covariance

        1/N sum (y_i - mu_y)(x_i - mu_x)^T = U D V^T    (38; singular value decomposition)

    the solution is

        S = diag(1, 1, sign(det U det V))               (43)
        R = U S V^T                                     (40)
        c = tr(D S) / s_x^2                             (42)
        t = mu_y - c R mu_x                             (41)

    The rotation of a straight path about itself is open: any of the equally good ones is returned.

    Args:
        estimate: Positions x, (N, 3), N >= 2.
        truth: Positions y at the same instants, (N, 3).
        with_scale: Whether the scale is fitted, too.

    Raises:
        ValueError: if the shapes differ, there are fewer than two positions, one is not finite, or
            the estimate or the truth does not move.
    """
    estimate, truth = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
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
    mean_x, mean_y = estimate.mean(axis=0), truth.mean(axis=0)
    x, y = estimate - mean_x, truth - mean_y
    u, d, vt = np.linalg.svd(y.T @ x / len(x))
    s = np.array([1.0, 1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0])
    rotation = (u * s) @ vt
    scale = float(d @ s / np.mean(np.sum(x**2, axis=1))) if with_scale else 1.0
    return Similarity(rotation, mean_y - scale * rotation @ mean_x, scale)


class PoseMetrics(NamedTuple):
    """How estimated poses compare with the true ones.

    Attributes:
        ate: Absolute trajectory error, translation; see `absolute_errors`. Metres, RMSE.
        ate_rotation: The same, rotation. Degrees, RMSE.
        rpe_translation: Relative pose error of consecutive poses, translation; see
            `relative_errors`. Metres, RMSE.
        rpe_rotation: The same, rotation. Degrees, RMSE.
        scale: Factor that the alignment gives to the estimate.
        aligned: The aligned estimate, (N, 4, 4).
    """

    ate: float
    ate_rotation: float
    rpe_translation: float
    rpe_rotation: float
    scale: float
    aligned: np.ndarray


def pose_metrics(estimate: np.ndarray, truth: np.ndarray, alignment: Alignment) -> PoseMetrics:
    """Align estimated poses with the true ones and compare them.

    Args:
        estimate, truth: Poses at the same instants, (N, 4, 4), N >= 2, metres.
        alignment: What fits the whole estimate to the truth first: 'se3' or 'sim3', Umeyama's
            alignment without or with scale (evo's `--align`, `--align --correct_scale`); or
            'scale': the estimate gets Umeyama's scale, and its first pose is laid on the true one
            (`--align_origin --correct_scale`).

    Raises:
        ValueError: if the shapes differ, there are fewer than two poses, one is not finite, the
            estimate or the truth does not move, or the alignment is unknown.
    """
    if alignment not in get_args(Alignment):
        raise ValueError(f"alignment {alignment!r} is unknown: use 'se3', 'sim3' or 'scale'")
    estimate, truth = _poses(estimate), _poses(truth)
    fit = umeyama_alignment(estimate[:, :3, 3], truth[:, :3, 3], alignment != 'se3')
    if alignment == 'scale':
        aligned = scaled_poses(estimate, fit.scale)
        aligned = truth[0] @ np.linalg.inv(aligned[0]) @ aligned
    else:
        aligned = fit.poses(estimate)
    found, should = orthonormal(aligned), orthonormal(truth)
    absolute, relative = absolute_errors(found, should), relative_errors(found, should)
    return PoseMetrics(
        ate=_rmse(absolute.translation),
        ate_rotation=_rmse(np.degrees(absolute.rotation)),
        rpe_translation=_rmse(relative.translation),
        rpe_rotation=_rmse(np.degrees(relative.rotation)),
        scale=fit.scale,
        aligned=aligned,
    )


class PoseErrors(NamedTuple):
    """Errors of poses, or of motions between them.

    Attributes:
        translation: (N,), in the unit of the poses.
        rotation: (N,), radians.
    """

    translation: np.ndarray
    rotation: np.ndarray


def absolute_errors(estimate: np.ndarray, truth: np.ndarray) -> PoseErrors:
    """Return |trans(P_i) - trans(Q_i)| and angle(Q_i^-1 P_i) of aligned poses (N, 4, 4)."""
    offsets = estimate[:, :3, 3] - truth[:, :3, 3]
    return PoseErrors(
        np.linalg.norm(offsets, axis=1), rotation_angles(np.linalg.inv(truth) @ estimate)
    )


def relative_errors(estimate: np.ndarray, truth: np.ndarray) -> PoseErrors:
    """Return the errors of the motions between consecutive poses (N, 4, 4), each (N - 1,).

    They are |trans(E_i)| and angle(E_i) of

        E_i = (Q_i^-1 Q_{i+1})^-1 (P_i^-1 P_{i+1})
    """
    found, should = (np.linalg.inv(p[:-1]) @ p[1:] for p in (estimate, truth))
    error = np.linalg.inv(should) @ found
    return PoseErrors(np.linalg.norm(error[:, :3, 3], axis=1), rotation_angles(error))


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

    Both are taken relative to their first pose; then the estimate gets the scale that fits the
    positions best, sum(truth * estimate) / sum(estimate^2). SfMLearner's paper (section 4.4) calls
    the result the absolute trajectory error; its code divides the norm by N, and so does every
    number published since. The rotation error is that of its PyTorch port.

    Args:
        estimate, truth: Poses at the same instants, (N, 4, 4), N >= 2.

    Raises:
        ValueError: if the shapes differ, there are fewer than two poses or one is not finite.
    """
    estimate, truth = _poses(estimate), _poses(truth)
    _check_alike(estimate, truth)
    estimate, truth = (np.linalg.inv(p[0]) @ p for p in (estimate, truth))
    e, t = estimate[:, :3, 3], truth[:, :3, 3]
    # An estimate that stands still is at the first position whatever its scale.
    scale = np.sum(t * e) / np.sum(e**2) if e.any() else 0.0
    angles = rotation_angles(np.linalg.inv(estimate) @ truth)
    return SnippetMetrics(float(np.linalg.norm(scale * e - t) / len(t)), float(angles.mean()))


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

    Every tenth frame i begins a segment of each length L, which ends at the first frame j that is
    farther than L away along the true path. The results are the means over all segments of

        t_err = |trans(E_ij)| / L,  r_err = angle(E_ij) / L,  E_ij = (P_i^-1 P_j)^-1 (Q_i^-1 Q_j)

    As the benchmark is metric, scale an estimate of unknown scale first (`pose_metrics`).

    Args:
        estimate: Poses, (N, 4, 4), metres; NaN where there is none: segments that begin or end
            there are left out.
        truth: True poses at the same instants, (N, 4, 4), metres.
        lengths: Lengths of the segments, metres.

    Raises:
        ValueError: if the shapes differ, or no segment is within the path.
    """
    estimate, truth, lengths = np.asarray(estimate, np.float64), _poses(truth), tuple(lengths)
    if estimate.shape != truth.shape:
        raise ValueError(f'estimate {estimate.shape} and truth {truth.shape} must be alike')
    steps = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    known = np.asarray(np.isfinite(estimate).all(axis=(1, 2)))
    starts = np.arange(0, len(truth), 10)
    translation, rotation = [], []
    for length in lengths:
        ends = np.searchsorted(distance, distance[starts] + length, side='right')
        within = ends < len(truth)
        first, last = starts[within], ends[within]
        both = known[first] & known[last]
        first, last = first[both], last[both]
        found, should = (np.linalg.inv(p[first]) @ p[last] for p in (estimate, truth))
        error = np.linalg.inv(found) @ should
        translation.append(np.linalg.norm(error[:, :3, 3], axis=1) / length)
        rotation.append(rotation_angles(error) / length)
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
        snippets: Errors of snippets of the same trajectory.

    Raises:
        ValueError: see `pose_metrics`.
    """
    found = {name: pose_metrics(estimate, truth, name) for name in get_args(Alignment)}
    numbers: dict[str, float] = {
        'frames': len(truth),
        'length': path_length(truth[:, :3, 3]),
        'scale': found['sim3'].scale,
    }
    for name, metrics in found.items():
        numbers[f'ate_{name}'] = metrics.ate
        numbers[f'rpe_{name}'] = metrics.rpe_translation
    numbers['ate_rotation_deg'] = found['se3'].ate_rotation
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


def path_length(positions: np.ndarray) -> float:
    """Return the length of a path of positions (N, 3)."""
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def scaled_poses(poses: np.ndarray, scale: float) -> np.ndarray:
    """Return poses (N, 4, 4) with their translations multiplied by `scale`."""
    poses = poses.copy()
    poses[:, :3, 3] *= scale
    return poses


def orthonormal(poses: np.ndarray) -> np.ndarray:
    """Return poses (N, 4, 4) with the nearest rotations, since a text file rounds them."""
    u, _, v = np.linalg.svd(poses[:, :3, :3])
    poses = poses.copy()
    poses[:, :3, :3] = u @ v
    return poses


def rotation_angles(transforms: np.ndarray) -> np.ndarray:
    """Return the angles of rotation (N,) of transforms (N, 4, 4), radians, 0 to pi.

    The arc tangent keeps small angles accurate, where the arc cosine of the trace would not.
    """
    r = transforms[:, :3, :3]
    axis = np.stack(
        [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=1
    )
    twice_sine = np.linalg.norm(axis, axis=1)
    return np.arctan2(twice_sine, np.trace(r, axis1=1, axis2=2) - 1)


def _rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _poses(poses: np.ndarray) -> np.ndarray:
    poses = np.asarray(poses, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f'poses {poses.shape} must be (N, 4, 4)')
    return poses


def _check_alike(estimate: np.ndarray, truth: np.ndarray) -> None:
    if estimate.shape != truth.shape or len(truth) < 2:
        raise ValueError(
            f'estimate {estimate.shape} and truth {truth.shape} must be the same two or more'
        )
    if not (np.isfinite(estimate).all() and np.isfinite(truth).all()):
        raise ValueError('a pose is not finite')
