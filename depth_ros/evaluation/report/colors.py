"""Colours of depth, of its error and of classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from depth_ros.inference.contract import SemanticClass

ERROR_LIMIT = 0.5
"""Relative depth error that the dark end of its colours stands for."""

DEPTH_COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)[:, 0, ::-1]
_DEPTH_MAP = np.ascontiguousarray(DEPTH_COLORS[:, None])  # as OpenCV wants it
# Light to dark: the truth is often sparse, and points must stand out of the darkened camera image.
ERROR_COLORS = np.stack(
    [
        np.interp(np.linspace(0, 4, 256), np.arange(5), channel)
        for channel in ((255, 254, 253, 227, 128), (255, 217, 141, 26, 0), (204, 118, 60, 28, 38))
    ],
    axis=-1,
).astype(np.uint8)


def color_depth(depth: np.ndarray, near: float) -> np.ndarray:
    """Colour depth by its inverse: `near` and nearer is red, infinity dark blue, invalid black.

    Args:
        depth: float32 (H, W), any unit; NaN = invalid.
        near: Depth in the same unit.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    level = np.divide(np.float32(255 * near), depth, dtype=np.float32)
    np.clip(level, 0, 255, out=level)
    invalid = np.isnan(depth)
    level[invalid] = 0
    colored = cv2.applyColorMap(level.astype(np.uint8), _DEPTH_MAP)
    colored[invalid] = 0
    return colored


def color_error(error: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Colour relative errors, pale to dark red at `ERROR_LIMIT`, over the darkened camera image.

    Args:
        error: float32 (H, W); NaN = unknown.
        rgb: uint8 (H', W', 3).

    Returns:
        uint8 (H, W, 3), RGB.
    """
    known = np.isfinite(error)
    level = np.clip(np.where(known, error, 0) / ERROR_LIMIT, 0, 1)
    return np.where(
        known[..., None], ERROR_COLORS[(level * 255).astype(np.uint8)], _grey(rgb, error.shape) // 3
    )


def color_labels(
    labels: np.ndarray, classes: Sequence[SemanticClass], rgb: np.ndarray | None = None
) -> np.ndarray:
    """Colour class ids, over the camera's image where it is given; 255 is black, or the image.

    Args:
        labels: uint8 (H, W).
        classes: The classes.
        rgb: uint8 (H, W, 3), or None.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    palette = np.zeros((256, 1, 3), np.uint8)
    for item in classes:
        palette[item.id] = item.color
    colored = cv2.applyColorMap(labels, palette)
    if rgb is None:
        return colored
    grey = _grey(rgb, labels.shape)
    return np.where(
        (labels < len(classes))[..., None], cv2.addWeighted(colored, 0.65, grey, 0.35, 0), grey
    )


def _grey(rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if grey.shape[:2] != shape:
        grey = cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA)
    return grey
