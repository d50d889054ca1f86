"""Rectification of recorded pictures by their camera_info."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import cv2
import numpy as np

from depth_ros.core.camera import scale_intrinsics
from train.data.sequences import DataError

FISHEYE = ('equidistant', 'fisheye')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial', 'thin_prism')


class Lens:
    """Turns recorded pictures into those of the pinhole camera that camera_info's P describes.

    Args:
        info: The camera_info.

    Attributes:
        model: Its distortion model.
        bends: Whether the pictures are distorted before they are rectified.

    Raises:
        DataError: `info` has distortion of an unknown kind, or no K.
    """

    def __init__(self, info: Any) -> None:
        self._info = info
        self.model: str = info.distortion_model
        # An equidistant lens bends without any coefficient, too.
        self.bends = bool(np.any(info.d)) or self.model in FISHEYE
        if self.bends and self.model not in FISHEYE + PINHOLE:
            raise DataError(
                f"camera_info has the distortion model '{self.model}', which is not "
                f'supported: calibrate as one of {", ".join(PINHOLE[1:] + FISHEYE)}, '
                'or record rectified images'
            )
        if self.bends and info.k[0] <= 0:
            raise DataError('camera_info has distortion but no K: calibrate the camera')
        self._maps = cache(self._make_maps)  # a recording has one size, or two with depth

    def applies(self, topic: str) -> bool:
        """Tell whether pictures of a topic are to be rectified."""
        return self.bends and not re.search(r'(^|[/_])rect', topic)

    def describe(self, topic: str) -> str:
        """Say what is done with pictures of a topic."""
        if self.applies(topic):
            return f'rectified here ({self.model or "plumb_bob"})'
        return 'recorded rectified' if self.bends else 'none needed: no distortion'

    def rectify(self, image: np.ndarray, topic: str, interpolation: int) -> np.ndarray:
        """Return a picture (h, w, ...) of a topic, of any resolution, rectified unless it is so."""
        if not self.applies(topic):
            return image
        return cv2.remap(image, *self._maps(*image.shape[1::-1]), interpolation)

    def _make_maps(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps that cv2.remap needs for pictures of this size."""
        info = self._info
        turn = np.reshape(info.r, (3, 3)) if np.any(info.r) else np.eye(3)
        matrix = self._scaled(np.reshape(info.k, (3, 3)), width, height)
        target = np.reshape(info.p, (3, 4))[:, :3]
        target = self._scaled(target, width, height) if target[0, 0] > 0 else matrix
        distortion = np.array(info.d if len(info.d) else [0.0] * 4, float)
        make = cv2.initUndistortRectifyMap
        if self.model in FISHEYE:
            make = cv2.fisheye.initUndistortRectifyMap
        return make(matrix, distortion, turn, target, (width, height), cv2.CV_32FC1)

    def _scaled(self, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
        """Return camera_info's K or P for the region of interest at another resolution."""
        matrix, roi = np.array(matrix, float), self._info.roi
        cut = roi.width > 0 and roi.height > 0
        if cut:
            matrix[:2, 2] -= roi.x_offset, roi.y_offset
        whole = (roi.width, roi.height) if cut else (self._info.width, self._info.height)
        return scale_intrinsics(matrix, width / whole[0], height / whole[1])
