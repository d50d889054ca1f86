"""Rectification of pictures by their camera_info, and whether they are rectified already.

A camera_info tells K and D of the lens and P of the rectified picture, and publishers send the same
with both. Which of both a picture is, its topic's name may say, and the picture itself: lines of
the world are straight in it or not (Brown 1971, "Close-range camera calibration").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from depth_ros.core.camera import CameraError, scale_intrinsics

FISHEYE = ('equidistant', 'fisheye')
PINHOLE = ('', 'plumb_bob', 'rational_polynomial', 'thin_prism')

SAID = ('auto', 'yes', 'no')
"""What a user may say: find out, rectified already, not rectified."""

BLACK = 10
"""Grey levels up to which a pixel counts as black."""

MUCH_BLACK = 0.1
"""Share of a picture that rectifying leaves black from which it is looked at twice."""

OFF_CENTRE = 0.05
"""Share of width or height by which a principal point may be off the middle of a picture."""

STRAIGHT = 1.0
"""Pixels that the points of an edge may be off a straight line for it to count as one (90 %)."""

CHANGE = 0.05
"""Pixels by which an edge must become straighter or less so to count."""

LINES = 16
"""Lines that must have become straighter, or less so, to decide, at a majority of four to one."""


class Verdict(NamedTuple):
    """Whether pictures are rectified already.

    Attributes:
        rectified: Whether they are.
        why: What says so.
        doubt: What does not fit; '' if all does.
    """

    rectified: bool
    why: str
    doubt: str = ''


NO_DISTORTION = Verdict(True, 'no distortion')
"""Of a lens that does not distort."""


def is_named_rectified(topic: str) -> bool:
    """Tell whether a topic's name says that its pictures are rectified."""
    return re.search(r'(^|[/_])rect', topic) is not None


def told(topic: str, said: str = 'auto') -> Verdict | None:
    """Return what is known of pictures without a look at them; None where nothing is.

    Args:
        topic: Name of their topic.
        said: What the user says, one of `SAID`.
    """
    if said != 'auto':
        return Verdict(said == 'yes', 'as told')
    return Verdict(True, "by its topic's name") if is_named_rectified(topic) else None


class Rectification:
    """Turns pictures as the lens makes them into those of the pinhole camera of camera_info's P.

    Args:
        info: The camera_info.
        fast: Whether pixels may be off by 1/32 of one, for half of the time.

    Attributes:
        model: Its distortion model.
        bends: Whether the lens distorts.

    Raises:
        CameraError: if `info` has distortion of an unknown kind, or no K.
    """

    def __init__(self, info: Any, *, fast: bool = False) -> None:
        self._info = info
        self.model: str = info.distortion_model
        # An equidistant lens bends without any coefficient, too.
        self.bends = bool(np.any(info.d)) or self.model in FISHEYE
        if self.bends and self.model not in FISHEYE + PINHOLE:
            raise CameraError(
                f"camera_info has the distortion model '{self.model}', which is not "
                f'supported: calibrate as one of {", ".join(PINHOLE[1:] + FISHEYE)}, '
                'record rectified images, or say so with --rectified yes'
            )
        if self.bends and not info.k[0] > 0:
            raise CameraError('camera_info has distortion but no K: calibrate the camera')
        self._maps = cache(self._make_maps)  # a recording has one size, or two with depth
        self._moves = cache(self._fixed_point) if fast else self._maps

    def rectify(
        self, image: np.ndarray, interpolation: int = cv2.INTER_LINEAR, unseen: float = 0
    ) -> np.ndarray:
        """Return a picture (h, w, ...) of any resolution rectified.

        Args:
            image: The picture, or a map of the same view.
            interpolation: OpenCV's.
            unseen: Value of pixels that the lens does not see.
        """
        if not self.bends:
            return image
        return cv2.remap(
            image,
            *self._moves(*image.shape[1::-1]),
            interpolation,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(unseen,) * 4,
        )

    def verdict(self, topic: str, pictures: Sequence[np.ndarray], said: str = 'auto') -> Verdict:
        """Tell whether the pictures of a topic are rectified already.

        Args:
            topic: Its name.
            pictures: Some of its pictures, RGB or BGR (H, W, 3) or grey (H, W), uint8, of one size.
            said: One of `SAID`.
        """
        if not self.bends:
            return NO_DISTORTION
        if (known := told(topic, said)) is not None:
            return known
        size = pictures[0].shape[1::-1] if len(pictures) else (0, 0)
        greys = [
            p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_BGR2GRAY)
            for p in pictures
            if p.shape[1::-1] == size
        ]
        if not greys:
            return Verdict(False, 'by D')
        unseen = self._unseen(*size)
        black = np.max(greys, axis=0) <= BLACK
        if unseen.mean() > 0.003 and _overlap(black, unseen) > 0.8:
            return Verdict(True, 'it is black where a rectified picture is')
        before, after = np.sum([self._lines(grey) for grey in greys], axis=0)
        if before + after >= LINES and max(before, after) >= 4 * min(before, after):
            return Verdict(bool(before > after), 'by the lines in it', self._misfit(unseen))
        if (misfit := self._misfit(unseen)) and self._is_of_another(*size):
            return Verdict(True, "K's centre is far from its middle, that of P is not", misfit)
        return Verdict(False, 'by D', misfit)

    def _misfit(self, unseen: np.ndarray) -> str:
        """Say that rectifying leaves much of a picture black; '' if it does not."""
        share = unseen.mean()
        return f'{share:.0%} are black after rectifying' if share > MUCH_BLACK else ''

    def _is_of_another(self, width: int, height: int) -> bool:
        """Tell whether K does not fit the pictures, and P does."""

        def off(matrix: np.ndarray) -> float:
            return float(
                max(
                    abs(matrix[0, 2] - (width - 1) / 2) / width,
                    abs(matrix[1, 2] - (height - 1) / 2) / height,
                )
            )

        matrix, target = self._matrices(width, height)
        return off(matrix) > OFF_CENTRE and 2 * off(target) < off(matrix)

    def _unseen(self, width: int, height: int) -> np.ndarray:
        """Tell which pixels (height, width) of a rectified picture the lens does not see."""
        x, y = self._maps(width, height)
        return (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)

    def _lines(self, grey: np.ndarray) -> tuple[int, int]:
        """Count the lines that are straighter in a picture as it is, and when it is rectified."""
        height, width = grey.shape
        before = after = 0
        for line in _edge_lines(grey):
            now, normal = _off_straight(line)
            bent = self._undistorted(line, width, height)
            aside = self._undistorted(line + normal, width, height)
            if bent is None or aside is None:
                continue
            then, turned = _off_straight(bent)
            # Rectifying stretches the edge's noise, too, by this factor.
            then /= max(abs(float(np.mean((aside - bent) @ turned))), 0.1)
            if min(now, then) < STRAIGHT:
                before += now < then - CHANGE
                after += then < now - CHANGE
        return before, after

    def _undistorted(self, points: np.ndarray, width: int, height: int) -> np.ndarray | None:
        """Return where points (N, 2) of a picture lie without distortion, at about its scale.

        None where the model cannot be inverted, as may be far from the middle.
        """
        matrix, _ = self._matrices(width, height)
        distortion = self._distortion()
        fisheye, points3 = self.model in FISHEYE, points[:, None].astype(np.float64)
        if fisheye:
            rays = cv2.fisheye.undistortPoints(points3, matrix, distortion)
        else:
            stop = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6
            rays = cv2.undistortPointsIter(points3, matrix, distortion, np.eye(3), np.eye(3), stop)
        if not np.isfinite(rays).all() or np.abs(rays).max() > 5:
            return None
        if fisheye:
            again = cv2.fisheye.distortPoints(rays, matrix, distortion)
        else:
            rays3 = cv2.convertPointsToHomogeneous(rays)
            again, _ = cv2.projectPoints(rays3, np.zeros(3), np.zeros(3), matrix, distortion)
        if np.abs(again[:, 0] - points).max() > 0.1:
            return None
        return rays[:, 0] * [matrix[0, 0], matrix[1, 1]]

    def _distortion(self) -> np.ndarray:
        return np.array(self._info.d if len(self._info.d) else [0.0] * 4, float)

    def _make_maps(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps that cv2.remap needs for pictures of this size."""
        info = self._info
        turn = np.reshape(info.r, (3, 3)) if np.any(info.r) else np.eye(3)
        matrix, target = self._matrices(width, height)
        make = cv2.initUndistortRectifyMap
        if self.model in FISHEYE:
            make = cv2.fisheye.initUndistortRectifyMap
        distortion = self._distortion()
        try:
            return make(matrix, distortion, turn, target, (width, height), cv2.CV_32FC1)
        except cv2.error as error:
            raise CameraError(
                f'camera_info has {distortion.size} coefficients of {self.model or "plumb_bob"}, '
                f'with which images cannot be rectified ({error.err}): calibrate the camera'
            ) from error

    def _fixed_point(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the maps in OpenCV's faster form."""
        return cv2.convertMaps(*self._maps(width, height), cv2.CV_16SC2)

    def _matrices(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Return K and the left of P (3, 3) for pictures of this size."""
        info = self._info
        matrix = self._scaled(np.reshape(info.k, (3, 3)), width, height)
        target = np.reshape(info.p, (3, 4))[:, :3]
        return matrix, self._scaled(target, width, height) if target[0, 0] > 0 else matrix

    def _scaled(self, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
        """Return camera_info's K or P for the region of interest at another resolution."""
        matrix, roi = np.array(matrix, float), self._info.roi
        cut = roi.width > 0 and roi.height > 0
        if cut:
            matrix[:2, 2] -= roi.x_offset, roi.y_offset
        whole = (roi.width, roi.height) if cut else (self._info.width, self._info.height)
        return scale_intrinsics(matrix, width / whole[0], height / whole[1])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two masks."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def _edge_lines(grey: np.ndarray) -> list[np.ndarray]:
    """Return the long, slim edges of a picture, each as points (N, 2)."""
    edges = cv2.Canny(cv2.GaussianBlur(grey, (0, 0), 1.0), 40, 100)
    # Where edges meet they are parted, so that each piece is one line.
    meeting = cv2.filter2D((edges > 0).astype(np.float32), -1, np.ones((3, 3))) > 4
    edges[cv2.dilate(meeting.astype(np.uint8), np.ones((3, 3))) > 0] = 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(edges, connectivity=8)
    least = max(30, grey.shape[1] // 16)
    long = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= least)
    found = []
    for index in long[long > 0]:
        x, y, w, h = stats[index, :4]
        rows, columns = np.nonzero(labels[y : y + h, x : x + w] == index)
        points = np.stack([columns + x, rows + y], 1).astype(float)
        # An edge that turns back is no line: as many points as its length has pixels at most.
        if len(points) <= 1.2 * max(w, h) and _off_straight(points)[0] < 0.05 * max(w, h):
            found.append(_smoothed(points, along=int(h > w)))
    return found


def _smoothed(points: np.ndarray, along: int, width: int = 5) -> np.ndarray:
    """Return points in their order along an axis, averaged over neighbours: edges are in pixels."""
    points = points[np.argsort(points[:, along], kind='stable')]
    kernel = np.full(width, 1 / width)
    return np.stack([np.convolve(points[:, i], kernel, 'valid') for i in (0, 1)], 1)


def _off_straight(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Return how far points (N, 2) are from the straight line through them (90 %), and its normal.

    The distance is in pixels, the normal (2,) of length one.
    """
    centered = points - points.mean(0)
    normal = np.linalg.eigh(centered.T @ centered)[1][:, 0]
    return float(np.percentile(np.abs(centered @ normal), 90)), normal
