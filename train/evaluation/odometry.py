"""The odometry that the robot runs, on a sequence; and a classical one beside it."""

from __future__ import annotations

from collections import Counter, abc
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from depth_ros.core.camera import Intrinsics
from depth_ros.core.ground import ground_weights
from depth_ros.core.map_scale import MapScale
from depth_ros.core.metrics.trajectory import (
    absolute_errors,
    kitti_drift,
    path_length,
    rotation_angles,
)
from depth_ros.core.se3 import (
    OPTICAL_IN_BASE,
    inverse,
    pose,
    pose_from_list,
    vector_from_rotation,
)
from depth_ros.core.tracked_motion import TrackedMotion
from depth_ros.core.trajectory import Motion, NoiseModel
from depth_ros.core.visual_odometry import VisualOdometry
from depth_ros.inference.classes import movable_ids
from train.data.sequences import DataError, Sequence, read_picture, stored_size
from train.evaluation.frames import camera_of, fitted_image, image_fit
from train.evaluation.predict import Predictor

PEER_CORNERS, PEER_RETURN, PEER_THRESHOLD = 2000, 1.0, 0.5
"""Corners of the classical odometry, pixels within which one must come back to where it started,
and pixels from its epipolar line within which RANSAC counts it."""

BASE = pose_from_list(OPTICAL_IN_BASE)  # as the odometry node's default: x of the body is forward
TURN = np.kron(np.eye(2), BASE[:3, :3])

SEGMENT = 100.0
"""Metres over which the consistency of the covariance is looked at, besides each step."""

STEP_VARIANCE = 1e-12
"""Added to variances of a step, so that one that stands can be divided by."""


@dataclass
class Travelled:
    """A trajectory of the odometry.

    Attributes:
        poses: (N, 4, 4), of the cameras in the first one, metres as far as they are known.
        covariances: (N, 6, 6) of them, x y z and rotation, in the first camera's frame.
        steps: (N, 6, 6), of each step, of the translation and rotation; NaN where there is none.
        trust: (N,), NaN where there is no motion.
        covered: how often the last velocity was taken, by reason.
        scale: of the map at the end; ``None``: not known.
    """

    poses: np.ndarray
    covariances: np.ndarray
    steps: np.ndarray
    trust: np.ndarray
    covered: Counter
    scale: MapScale | None


class Consistency(NamedTuple):
    """Normalised estimation error squared, by its expectation: 1 where covariances are true.

    Attributes:
        step: median over steps, by the median that it would have.
        segment: the same over segments of ``SEGMENT`` metres; NaN without one.
    """

    step: float
    segment: float


def travel(
    sequence: Sequence,
    predictor: Predictor | None,
    mode: str = 'auto',
    *,
    refinement: str = 'pnp',
    camera_height: float = 0.0,
    use_depth: bool = False,
    done: abc.Callable[[], object] = lambda: None,
) -> Travelled:
    """Run the odometry on a sequence.

    Args:
        sequence: the sequence.
        predictor: gives the pose network's motion, and depth and labels with ``use_depth``;
            ``None``: the images alone.
        mode: how images are fitted to the networks, see :func:`image_fit`.
        refinement: see :class:`VisualOdometry`.
        camera_height: metres over the ground; 0: not known.
        use_depth: whether depth and labels help, as the parameter of the odometry node.
        done: called after each image.

    Raises:
        DataError: if the camera is not known.
    """
    stored = stored_size(sequence)
    camera = camera_of(sequence.intrinsics, stored) if stored else None
    if camera is None:
        raise DataError(
            f"'{sequence.folder}' has no intrinsics, which refinement needs: find them with "
            "'python -m train structure'"
        )
    size = predictor.pose_size if predictor is not None and predictor.views == 2 else None
    fit = image_fit(camera, predictor.pose_camera, mode) if predictor else None
    odometry = VisualOdometry(
        (lambda a, b: _vector(predictor.motion(a, b))) if size and predictor else None,
        BASE,
        NoiseModel(0.02, 0.1, 0.002, 0.05),
        refinement=refinement,
        camera_height=camera_height,
        max_gap=np.inf,
    )
    count = len(sequence.images)
    times = sequence.times if sequence.times is not None else 0.1 * np.arange(count)
    poses, covariances = np.empty((count, 4, 4)), np.empty((count, 6, 6))
    steps, trust = np.full((count, 6, 6), np.nan), np.full(count, np.nan)
    covered: Counter = Counter()
    for i, path in enumerate(sequence.images):
        stamp = round(1e9 * (times[i] - times[0] + 1))
        found = odometry.step(
            fitted_image(path, size, fit) if size else None,
            stamp,
            camera,
            read_picture(path, cv2.IMREAD_GRAYSCALE),
        )
        if isinstance(found, Motion):
            steps[i] = TURN.T @ found.covariance @ TURN * found.seconds**2
            trust[i] = found.confidence.trust
            covered[found.covered] += bool(found.covered)
        if use_depth and predictor is not None and odometry.tracked is not None:
            _perceive(predictor, path, camera, mode, stamp, odometry.tracked)
        poses[i] = inverse(BASE) @ odometry.trajectory.pose @ BASE
        covariances[i] = TURN.T @ odometry.trajectory.covariance @ TURN
        done()
    scale = odometry.tracked.scale if odometry.tracked is not None else None
    return Travelled(poses, covariances, steps, trust, +covered, scale)


def _perceive(
    predictor: Predictor,
    path: Path,
    camera: Intrinsics,
    mode: str,
    stamp: int,
    tracked: TrackedMotion,
) -> None:
    """Tell the odometry what the perception network, if there is one, sees."""
    if predictor.perception_size is None:
        return
    fit = image_fit(camera, predictor.camera, mode)
    depth, labels = predictor.perceive(fitted_image(path, predictor.perception_size, fit))
    if depth is not None and fit is not None:
        depth = depth * np.float32(fit.depth_factor)
    tracked.add_depth(
        stamp,
        depth,
        labels,
        camera.resized(*predictor.perception_size) if fit is None else fit.network,
        metric=predictor.metric and not predictor.affine,
        movable=movable_ids(predictor.classes),
        ground=ground_weights({c.name: c.id for c in predictor.classes}),
    )


def _vector(transform: np.ndarray) -> np.ndarray:
    return np.concatenate([vector_from_rotation(transform[:3, :3]), transform[:3, 3]])


def peer(sequence: Sequence, truth: np.ndarray) -> np.ndarray:
    """Classical odometry: corners, an essential matrix, and the true length of each step.

    Args:
        sequence: with known intrinsics.
        truth: true poses (N, 4, 4), of which only the steps' lengths are looked at.

    Returns:
        Poses (N, 4, 4) in the first camera. Where nothing is found, the step is the one before.
    """
    poses, step, before = [np.eye(4)], np.eye(4), None
    for i, path in enumerate(sequence.images):
        image = read_picture(path, cv2.IMREAD_GRAYSCALE)
        if before is not None:
            found = _essential(before, image, sequence.intrinsics)
            step = step if found is None else found
            step[:3, 3] *= np.linalg.norm((inverse(truth[i - 1]) @ truth[i])[:3, 3])
            poses.append(poses[-1] @ step)
            length = np.linalg.norm(step[:3, 3])
            step = pose(step[:3, :3], step[:3, 3] / length if length else step[:3, 3])
        before = image
    return np.array(poses)


def _essential(before: np.ndarray, image: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """T_before_now with a translation of length 1; ``None`` where none is found."""
    corners = cv2.goodFeaturesToTrack(before, PEER_CORNERS, 0.01, 5)
    if corners is None or len(corners) < 8:
        return None
    none = np.empty(0, np.float32)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, image, corners, none)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(image, before, there, none)
    good = (found[:, 0] > 0) & (returned[:, 0] > 0)
    good &= np.linalg.norm((back - corners)[:, 0], axis=1) < PEER_RETURN
    if good.sum() < 8:
        return None
    cv2.setRNGSeed(0)
    essential, mask = cv2.findEssentialMat(
        corners[good], there[good], matrix, cv2.RANSAC, 0.999, PEER_THRESHOLD
    )
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, direction, _ = cv2.recoverPose(
        essential, corners[good], there[good], matrix, mask=mask
    )
    return inverse(pose(rotation, direction[:, 0]))


def refined_numbers(found: Travelled, truth: np.ndarray) -> dict:
    """What only the odometry's own trajectory can be asked, beside :func:`trajectory_table`.

    Args:
        found: the trajectory.
        truth: true poses (N, 4, 4) in the first camera.
    """
    errors = absolute_errors(found.poses, truth)
    length = path_length(truth[:, :3, 3])
    true = consistency(found, truth)
    numbers: dict = {
        'ate_first': float(np.sqrt(np.mean(np.square(errors.translation)))),
        'distance_ratio': path_length(found.poses[:, :3, 3]) / length,
        'nees_step': true.step,
        'trust': float(np.nanmean(found.trust)),
        'covered': dict(found.covered),
        'scale_source': found.scale.source if found.scale else 'not known',
    }
    if length > SEGMENT:
        drift = kitti_drift(found.poses, truth)
        numbers |= {
            't_err_first': drift.t_err,
            'r_err_first': drift.r_err,
            'nees_segment': true.segment,
        }
    return numbers


def standing_numbers(poses: np.ndarray) -> dict:
    """How far a camera that stands has come, of poses (N, 4, 4) in the first one."""
    return {
        'frames': len(poses),
        'length': 0.0,
        'farthest': float(np.linalg.norm(poses[:, :3, 3], axis=1).max()),
        'turned_deg': float(np.degrees(rotation_angles(poses).max())),
    }


def consistency(found: Travelled, truth: np.ndarray) -> Consistency:
    """Whether covariances are true: squared errors by what they should be, median by median.

    Args:
        found: the trajectory.
        truth: true poses (N, 4, 4) in the first camera.
    """
    steps = []
    for i in range(1, len(truth)):
        covariance = found.steps[i]
        if not np.isfinite(covariance).all():
            continue
        error = _error(inverse(found.poses[i - 1]) @ found.poses[i], truth[i - 1], truth[i])
        steps.append(error @ np.linalg.solve(covariance + STEP_VARIANCE * np.eye(6), error))
    travelled = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1))]
    )
    segments = []
    for end in np.flatnonzero(travelled > SEGMENT):
        # From the first pose, where the covariance starts.
        error = np.concatenate(
            [
                found.poses[end][:3, 3] - truth[end][:3, 3],
                vector_from_rotation(found.poses[end][:3, :3] @ truth[end][:3, :3].T),
            ]
        )
        segments.append(error @ np.linalg.solve(found.covariances[end], error))
    expected = 5.348  # median of chi squared with six degrees of freedom
    return Consistency(
        *(float(np.median(v)) / expected if v else float('nan') for v in (steps, segments))
    )


def _error(step: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    error = inverse(inverse(first) @ second) @ step
    return np.concatenate([error[:3, 3], vector_from_rotation(error[:3, :3])])
