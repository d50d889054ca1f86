"""How consistent a model's depth and motion are, for recordings without ground truth.

Consecutive frames must explain each other: the previous image, seen through the current depth and
the motion, must look like the current one (photometric loss); both depths must agree (depth
inconsistency); steps must chain (loop closure); and the scale must stay the same (scale drift).

A pose ``T_a_b`` takes points from frame b to frame a, in optical frames, as in
`depth_ros.core.se3`; its translation is in the unit of the depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from depth_ros.core.camera import CameraError, Intrinsics, reproject
from depth_ros.core.se3 import inverse, vector_from_rotation

MIN_DEPTH = 1e-3
"""Least depth, in its own unit, of a point that counts as in front of a camera."""

_BORDER = 1e-3
"""Pixels by which a point may miss the image, so that rounding does not exclude its border."""

_UNIT = np.float32(1 / 255)
_SSIM_WEIGHT = 0.85
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


class Warp(NamedTuple):
    """Where the previous frame shows the points of the current one; see `warp`.

    Attributes:
        u, v: float32 (H, W), pixels of the previous frame; -1 where `depth` is NaN.
        depth: float32 (H, W), depth of the points in the previous camera; NaN where the current
            depth is invalid or the point is not in front of that camera.
        counts: bool (H, W), pixels whose point lies in front of and inside the previous image.
    """

    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray
    counts: np.ndarray

    def sample(self, previous: np.ndarray) -> np.ndarray:
        """Return an image or depth of the previous frame as the current one sees it, float32.

        Sampling is bilinear; outside the previous image, its border is repeated.
        """
        return cv2.remap(
            previous, self.u, self.v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def warp(depth: np.ndarray, camera: Intrinsics, previous_current: np.ndarray) -> Warp:
    """Find the current frame's points in the previous frame.

    Args:
        depth: Depth of the current frame, float (H, W); NaN = invalid.
        camera: Camera of both frames, at this size.
        previous_current: T_previous_current 4x4.

    Raises:
        CameraError: if the size is not the camera's.
        ValueError: if the motion is not finite.
    """
    _require_size('depth', depth, camera)
    if not np.isfinite(previous_current).all():
        raise ValueError('the motion between the frames is not finite: leave this pair out')
    with np.errstate(invalid='ignore'):
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)
        x, y, z = reproject(depth, camera, previous_current)
        ahead = z > MIN_DEPTH
    z = np.where(ahead, z, np.float32(np.nan))
    u, v = (np.where(ahead, a / z, np.float32(-1)) for a in (x, y))
    counts = (
        (u >= -_BORDER)
        & (u <= camera.width - 1 + _BORDER)
        & (v >= -_BORDER)
        & (v <= camera.height - 1 + _BORDER)
    )
    return Warp(u, v, z, counts)


def _require_size(name: str, array: np.ndarray, camera: Intrinsics) -> None:
    if array.shape[:2] != (camera.height, camera.width):
        raise CameraError(
            f'{name} is {array.shape[1]}x{array.shape[0]}, '
            f'but the camera is {camera.width}x{camera.height}'
        )


class PhotometricLoss(NamedTuple):
    """How much the warped previous image differs from the current one, in 0..1.

    Over a recording, the sum of `predicted` divided by the sum of `static` says how much depth
    and motion explain: below 1, they explain what moves in the image.

    Attributes:
        predicted: Mean of 0.85 (1 - SSIM) / 2 + 0.15 L1 over the pixels that count.
        static: The same of the previous image left as it is, over the same pixels.
        share: Share of the image's pixels that count.
    """

    predicted: float
    static: float
    share: float


def photometric_loss(
    previous: np.ndarray,
    current: np.ndarray,
    depth: np.ndarray,
    camera: Intrinsics,
    previous_current: np.ndarray,
) -> PhotometricLoss:
    """Compare the current image with the previous one, warped (FSRE-Depth, eq. 2).

    Pixels count whose point the previous image shows, unless their 3x3 window reaches into pixels
    that cannot be projected.

    Args:
        previous, current: uint8 (H, W) or (H, W, C), rectified.
        depth: Depth of the current frame, float (H, W); NaN = invalid.
        camera: Camera of both frames, at this size.
        previous_current: T_previous_current 4x4.

    Raises:
        CameraError: if a size is not the camera's.
        ValueError: if the images are not uint8 alike, the motion is not finite, or no pixel counts.
    """
    if previous.shape != current.shape or not previous.dtype == current.dtype == np.uint8:
        raise ValueError(
            f'images {previous.shape} {previous.dtype} and {current.shape} '
            f'{current.dtype} must be uint8 and of one shape'
        )
    _require_size('image', current, camera)
    seen = warp(depth, camera, previous_current)
    projected = np.isfinite(seen.depth).view(np.uint8)
    counts = seen.counts & cv2.erode(projected, np.ones((3, 3), np.uint8)).view(bool)
    _require_some(counts)
    mask = counts.view(np.uint8)
    errors = []
    # Colour by colour: the intermediate images stay in the cache, which is several times faster.
    for before, now in zip(cv2.split(previous), cv2.split(current), strict=True):
        before, now = before * _UNIT, now * _UNIT
        errors.append(
            [cv2.mean(_difference(image, now), mask)[0] for image in (seen.sample(before), before)]
        )
    predicted, static = np.mean(errors, axis=0)
    return PhotometricLoss(float(predicted), float(static), float(counts.mean()))


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The photometric difference of two images of one colour, float32 (H, W) in 0..1."""
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variances = (_window_mean(a * a) - mean_a * mean_a) + (_window_mean(b * b) - mean_b * mean_b)
    covariance = _window_mean(a * b) - mean_a * mean_b
    similarity = (
        (2 * mean_a * mean_b + _SSIM_C1)
        * (2 * covariance + _SSIM_C2)
        / ((mean_a * mean_a + mean_b * mean_b + _SSIM_C1) * (variances + _SSIM_C2))
    )
    return _SSIM_WEIGHT / 2 * (1 - similarity) + (1 - _SSIM_WEIGHT) * cv2.absdiff(a, b)


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Mean over the 3x3 window of each pixel, borders reflected; as `cv2.blur`, but faster."""
    # A third, rounded, makes a window's weights more than 1 in all, and its variance too small.
    third = np.float32(1 / 3)
    weights = np.array([third, 1 - 2 * third, third])
    return cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)


class DepthInconsistency(NamedTuple):
    """How much two frames' depths disagree about the same points.

    Attributes:
        mean: Mean of |projected - sampled| / (projected + sampled), in 0..1.
        ratio: Median of sampled / projected: the factor that brings the current depth to the
            previous one's scale; 1 if the scale is stable.
        share: Share of the image's pixels that count.
    """

    mean: float
    ratio: float
    share: float


def depth_inconsistency(
    previous_depth: np.ndarray,
    depth: np.ndarray,
    camera: Intrinsics,
    previous_current: np.ndarray,
) -> DepthInconsistency:
    """Compare the current depth, projected into the previous frame, with the depth found there.

    The geometry consistency of SC-SfMLearner (Bian et al. 2019, eq. 5 and 6). Moving objects and
    occlusions disagree even where both depths are true.

    Args:
        previous_depth, depth: Depth of the two frames, float (H, W); NaN = invalid.
        camera: Camera of both frames, at this size.
        previous_current: T_previous_current 4x4.

    Raises:
        CameraError: if a size is not the camera's.
        ValueError: if the motion is not finite, or no pixel counts.
    """
    _require_size('previous depth', previous_depth, camera)
    seen = warp(depth, camera, previous_current)
    with np.errstate(invalid='ignore'):
        known = np.where(previous_depth > 0, previous_depth, np.nan).astype(np.float32)
    sampled = seen.sample(known)  # NaN wherever one of the four pixels is unknown
    counts = seen.counts & np.isfinite(sampled)
    _require_some(counts)
    projected, sampled = seen.depth[counts], sampled[counts]
    difference = np.abs(projected - sampled) / (projected + sampled)
    return DepthInconsistency(
        mean=float(difference.mean(dtype=np.float64)),
        ratio=float(np.median(sampled / projected)),
        share=float(counts.mean()),
    )


def _require_some(counts: np.ndarray) -> None:
    if not counts.any():
        raise ValueError(
            'no pixel of the current frame with valid depth is seen in the previous '
            'one: leave this pair out, or check depth, motion and camera'
        )


class LoopClosure(NamedTuple):
    """How far two steps are from the direct estimate over both.

    Attributes:
        translation: Distance between where they lead, as a share of the length of the two steps.
        rotation: Angle between them, degrees.
    """

    translation: float
    rotation: float


def loop_closure(t_01: np.ndarray, t_12: np.ndarray, t_02: np.ndarray) -> LoopClosure:
    """Compare the chain of two motions with the direct one.

    Args:
        t_01, t_12, t_02: T_0_1, T_1_2 and T_0_2 4x4, of three frames.

    Raises:
        ValueError: if a motion is not finite, or the two steps do not move.
    """
    if not np.isfinite([t_01, t_12, t_02]).all():
        raise ValueError('a motion of the loop is not finite: leave these frames out')
    way = np.linalg.norm(t_01[:3, 3]) + np.linalg.norm(t_12[:3, 3])
    if way == 0:
        raise ValueError(
            'the two steps do not move, so the error is no share of their length: '
            'leave these frames out'
        )
    error = inverse(t_02) @ t_01 @ t_12
    return LoopClosure(
        translation=float(np.linalg.norm(error[:3, 3]) / way),
        rotation=float(np.degrees(np.linalg.norm(vector_from_rotation(error[:3, :3])))),
    )


class ScaleDrift(NamedTuple):
    """How stable the scale of a model is over a recording.

    Attributes:
        median: Median of the scale.
        spread: Standard deviation of the scale as a share of the median.
        drift: How much the scale grows, percent per minute.
    """

    median: float
    spread: float
    drift: float


def scale_drift(stamps: ArrayLike, scales: ArrayLike) -> ScaleDrift:
    """Measure how stable the scales of the frames are, such as those of median scaling.

    Drift is the slope of the logarithm by Theil's incomplete method: the median of the slopes
    between frames half the recording apart. Up to a quarter of wild frames cannot spoil it.

    Args:
        stamps: Stamps of the frames, (N,), N >= 2, increasing, seconds.
        scales: Scales of the frames, (N,), above 0.

    Raises:
        ValueError: if their numbers differ, there are fewer than two, a value is not finite, the
            stamps do not increase or a scale is not positive.
    """
    times, values = np.asarray(stamps, np.float64), np.asarray(scales, np.float64)
    if times.shape != values.shape or times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f'stamps {times.shape} and scales {values.shape} must be equally many, two or more'
        )
    # Written so that NaN does not pass.
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError('stamps must be finite and increase: sort the frames, drop repeated ones')
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError('scales must be finite and above 0: leave the other frames out')
    half = (len(times) + 1) // 2
    logs = np.log(values)
    slope = np.median((logs[half:] - logs[:-half]) / (times[half:] - times[:-half]))
    median = np.median(values)
    return ScaleDrift(
        median=float(median),
        spread=float(values.std() / median),
        drift=float(100 * np.expm1(60 * slope)),
    )


def accumulated_scale(ratios: Iterable[float]) -> np.ndarray:
    """Scale of each frame by the steps between them, for `scale_drift` without ground truth.

    Args:
        ratios: `DepthInconsistency.ratio` of each frame after the first, (N,).

    Returns:
        float64 (N + 1,): factor that brings the depth of each frame to the scale of the first.
    """
    return np.cumprod([1.0, *ratios])
