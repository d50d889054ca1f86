"""Corners of an image and where they are in another one.

Corners are those of Shi and Tomasi 1994, "Good features to track", spread over the image by a grid.
They are followed by the pyramidal method of Lucas and Kanade (Bouguet 2000), there and back: a
corner that does not come back to where it started is not believed. Pixel (u, v) is the centre of
column u and row v.
"""

from __future__ import annotations

import cv2
import numpy as np

from depth_ros.core.camera import Intrinsics

WIDTH = 640
"""Pixels that images are reduced to for tracking, if they are wider."""

WINDOW = 15
"""Side of the patch around a corner, pixels."""

LEVELS = 3
"""Halvings of the image in a pyramid: motion of some 50 pixels is found without a guess."""

RETURN = 1.0
"""Pixels within which a corner must come back to where it started."""

QUALITY = 0.002
"""Least quality of a corner, as a share of the best one's."""

GRID = (16, 6)
"""Columns and rows of cells, each of which gets its share of the corners."""

DARK = 4.0
"""Standard deviation of grey levels below which an image shows nothing."""


def tracking_image(image: np.ndarray, camera: Intrinsics) -> tuple[np.ndarray, Intrinsics]:
    """The grey image that corners are followed in, and its camera.

    Args:
        image: uint8 (H, W, 3) RGB or (H, W), of the camera's size.
        camera: its camera.

    Returns:
        uint8 (h, w) of at most ``WIDTH`` columns, and the camera at this size.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if camera.width <= WIDTH:
        return grey.copy() if grey is image else grey, camera
    size = WIDTH, max(1, round(camera.height * WIDTH / camera.width))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA), camera.resized(*size)


def detect(image: np.ndarray, count: int, known: np.ndarray) -> np.ndarray:
    """New corners of an image, away from known ones and spread over the image.

    Args:
        image: uint8 (H, W).
        count: how many corners there should be, with the known ones.
        known: float32 (N, 2), corners that there are already.

    Returns:
        float32 (M, 2).
    """
    height, width = image.shape
    columns, rows = GRID
    share = -(-count // (columns * rows))
    distance = max(3, round(0.45 * np.sqrt(height * width / count)))
    strength = cv2.cornerMinEigenVal(image, 5)
    border = WINDOW // 2
    strength[:border] = strength[-border:] = 0
    strength[:, :border] = strength[:, -border:] = 0
    for u, v in np.rint(known).astype(int).tolist():
        cv2.circle(strength, (u, v), distance, 0.0, -1)
    peaks = strength >= cv2.dilate(strength, np.ones((3, 3), np.uint8))
    peaks &= strength > QUALITY * float(strength.max())
    v, u = np.nonzero(peaks)
    order = np.argsort(-strength[v, u], kind='stable')
    u, v = u[order], v[order]
    cells = (v * rows // height) * columns + u * columns // width
    room = np.full(columns * rows, share)
    old = np.rint(known).astype(int)
    old = (old[:, 1].clip(0, height - 1) * rows // height) * columns + (
        old[:, 0].clip(0, width - 1) * columns // width
    )
    np.subtract.at(room, old, 1)
    taken = np.zeros((height + 2 * distance, width + 2 * distance), bool)
    found = []
    for x, y, cell in zip(u.tolist(), v.tolist(), cells.tolist(), strict=True):
        if room[cell] <= 0 or taken[y + distance, x + distance]:
            continue
        room[cell] -= 1
        taken[y : y + 2 * distance + 1, x : x + 2 * distance + 1] = True
        found.append((x, y))
        if len(found) + len(known) >= count:
            break
    return np.array(found, np.float32).reshape(-1, 2)


def follow(
    first: np.ndarray, second: np.ndarray, corners: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where corners of one image are in another.

    Args:
        first, second: uint8 (H, W).
        corners: float32 (N, 2) in the first.
        guess: float32 (N, 2), where they may be in the second.

    Returns:
        float32 (N, 2) in the second, and bool (N,), whether it was found.
    """
    if not len(corners):
        return corners.copy(), np.zeros(0, bool)
    second = _like(first, second)
    size, levels = (WINDOW, WINDOW), LEVELS
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02)
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        first, second, corners, guess.copy(), None, None, size, levels, until, flags
    )
    back, returned, _ = cv2.calcOpticalFlowPyrLK(
        second, first, there, corners.copy(), None, None, size, 1, until, flags
    )
    height, width = first.shape
    good = (found[:, 0] > 0) & (returned[:, 0] > 0)
    good &= np.linalg.norm(back - corners, axis=1) < RETURN
    good &= (there >= 0).all(1) & (there[:, 0] <= width - 1) & (there[:, 1] <= height - 1)
    return there, good


def _like(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second image with the brightness and contrast of the first, if they differ."""
    (mean, spread), (other, its) = (
        (float(m[0, 0]), float(s[0, 0])) for m, s in map(cv2.meanStdDev, (first, second))
    )
    gain = spread / its if its > DARK else 1.0
    if abs(mean - other) < 4.0 and 0.9 < gain < 1.1:
        return second
    levels = mean + gain * (np.arange(256) - other)
    return cv2.LUT(second, np.clip(np.rint(levels), 0, 255).astype(np.uint8))
