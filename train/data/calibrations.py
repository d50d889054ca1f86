"""The calibration of a recording's images, which may change."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from depth_ros.bags.messages import header_stamp
from depth_ros.bags.recorded_camera import RecordedCamera
from depth_ros.core.camera import CameraError, intrinsics_from_info
from train.data.sequences import DataError


class Calibrated(NamedTuple):
    """The images of one calibration, that of most.

    Attributes:
        recorded: Their stamps in the order of the recording, ns.
        lag: How far their log times are behind, in the median, ns.
        info: Their camera_info.
        left_out: Stamps of the others, ns, ascending.
        warnings: What is to be said of the others.
    """

    recorded: np.ndarray
    lag: int
    info: Any
    left_out: np.ndarray
    warnings: list[str]


def calibrated(camera: RecordedCamera, size: tuple[int, int]) -> Calibrated:
    """Find the calibration that most images of a recording have, and those images.

    Raises:
        CameraError: if no camera_info fits the images.
        DataError: if there is none.
    """
    kinds: list[tuple[Any, np.ndarray, list[tuple[int, int]]]] = []  # and stamps, log times
    kind_of: dict[int, int] = {}  # by the identity of a camera_info
    for message, info in camera.each():
        if info is None:
            raise DataError('not one camera_info can be read')
        if id(info) not in kind_of:
            numbers = _calibration(info, size)
            same = (i for i, (_, other, _) in enumerate(kinds) if _alike(numbers, other, size))
            kind_of[id(info)] = next(same, len(kinds))
            if kind_of[id(info)] == len(kinds):
                kinds.append((info, numbers, []))
        kinds[kind_of[id(info)]][2].append((header_stamp(message.data), message.log_ns))
    if not kinds:
        raise DataError('not one image can be read')
    best = max(kinds, key=lambda kind: (np.isfinite(kind[1]).all(), len(kind[2])))
    left_out = np.sort([s for kind in kinds if kind is not best for s, _ in kind[2]])
    warnings = []
    if len(left_out):
        focal = ', '.join(f'fx {kind[1][0]:.4g} of {len(kind[2])} images' for kind in kinds)
        warnings.append(
            f'the calibration changes ({focal}): {len(left_out)} images are left out, as a '
            'sequence has one; to have them, too, prepare a recording that holds only these'
        )
    recorded, logged = np.array(best[2]).T
    lag = int(np.median(logged - recorded))
    return Calibrated(recorded, lag, best[0], left_out, warnings)


def _calibration(info: Any, size: tuple[int, int]) -> np.ndarray:
    """Return fx, fy, cx, cy of the rectified pictures, and K and D; NaN where nothing fits."""
    try:
        camera = intrinsics_from_info(info, *size)
    except CameraError:
        return np.full(4, np.nan)
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy, *info.k, *info.d])


def _alike(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> bool:
    """Tell whether two calibrations put things at the same pixels, but for a few thousandths."""
    if a.shape != b.shape:
        return False
    tolerance = np.full(len(a), 2e-3)
    tolerance[:13] *= size[0]
    return bool((np.abs(a - b) <= tolerance).all()) or bool(np.isnan([a, b]).all())
