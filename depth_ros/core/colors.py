"""Colours of depth, of its errors and of class labels: one colour map each, for all pictures.

Values first become levels, uint8 indices into a palette, uint8 (256, 3) RGB; `paint` looks their
colours up. Level 0 of depth and errors means unknown and is black.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

DEPTH_PALETTE = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)[:, 0, ::-1]
)
"""Google's Turbo, from level 1, far (dark blue), to level 255, near (red)."""
DEPTH_PALETTE[0] = 0

# Light to dark: true depth is often sparse, and its points must stand out from a dark background.
_ERROR_STOPS = np.array(
    [(255, 255, 204), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)]
)
ERROR_PALETTE = np.stack(
    [np.interp(np.linspace(0, 4, 256), np.arange(5), channel) for channel in _ERROR_STOPS.T],
    axis=-1,
).astype(np.uint8)
"""ColorBrewer's YlOrRd, from level 1, no error (pale yellow), to level 255 (dark red)."""
ERROR_PALETTE[0] = 0

WORST_ERROR = 0.5
"""Relative error of depth from which on the colour no longer changes."""

Color = tuple[int, int, int]


def paint(levels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colours of levels (H, W) in a palette, uint8 (H, W, 3) RGB."""
    return cv2.applyColorMap(levels, palette[:, None])


def depth_levels(depth: np.ndarray, near: float) -> np.ndarray:
    """Return the levels of depth in `DEPTH_PALETTE`, which are linear in inverse depth.

    Args:
        depth: float32 (H, W), any unit; NaN = unknown.
        near: Depth of level 255; nearer pixels have this level, too.

    Returns:
        uint8 (H, W).
    """
    levels = np.divide(np.float32(254 * near), depth, dtype=np.float32)
    np.minimum(levels, 254, out=levels)
    levels += 1
    levels[np.isnan(levels)] = 0
    return levels.astype(np.uint8)


def color_depth(depth: np.ndarray, near: float) -> np.ndarray:
    """Return the colours of depth, uint8 (H, W, 3) RGB; arguments as of `depth_levels`."""
    return paint(depth_levels(depth, near), DEPTH_PALETTE)


class DepthColors:
    """Colours the depth of successive images as `depth/color` shows it.

    The near end of the colours follows the scene slowly, so that they neither flicker nor depend on
    the model's range.
    """

    def __init__(self) -> None:
        """Start without a scene."""
        self._inverse_near = 0.0

    def follow(self, depth: np.ndarray) -> float:
        """Return the near end of the colours for the next image's depth, float32 (H, W)."""
        sample = 1 / depth[::4, ::4]
        sample = sample[np.isfinite(sample)]
        if sample.size:
            found = float(np.percentile(sample, 98))
            last = self._inverse_near
            self._inverse_near = 0.95 * last + 0.05 * found if last else found
        return 1 / max(self._inverse_near, 1e-9)

    def __call__(self, depth: np.ndarray) -> np.ndarray:
        """Return the colours of the next image's depth, uint8 (H, W, 3) RGB."""
        return color_depth(depth, self.follow(depth))


def error_levels(error: np.ndarray, worst: float = WORST_ERROR) -> np.ndarray:
    """Return the levels of errors in `ERROR_PALETTE`, uint8 (H, W).

    Args:
        error: Float (H, W), at least 0; NaN = unknown.
        worst: Error of level 255; larger errors have this level, too.
    """
    known = np.isfinite(error)
    share = np.clip(np.where(known, error, 0) / worst, 0, 1)
    return np.where(known, 1 + 254 * share, 0).astype(np.uint8)


def color_error(error: np.ndarray, rgb: np.ndarray | None = None) -> np.ndarray:
    """Return the colours of relative errors, uint8 (H, W, 3) RGB.

    Args:
        error: Float (H, W), at least 0; NaN = unknown.
        rgb: The camera's image, uint8 (H', W', 3); darkened, it shows where the error is unknown.
            Without it, this is black.
    """
    levels = error_levels(error)
    colored = paint(levels, ERROR_PALETTE)
    if rgb is None:
        return colored
    return np.where((levels > 0)[..., None], colored, _grey(rgb, error.shape) // 3)


def label_palette(colors: Mapping[int, Color]) -> np.ndarray:
    """Return the palette of class ids, uint8 (256, 3) RGB; ids without a colour are black."""
    palette = np.zeros((256, 3), np.uint8)
    for number, color in colors.items():
        palette[number] = color
    return palette


def color_labels(
    labels: np.ndarray, colors: Mapping[int, Color], rgb: np.ndarray | None = None
) -> np.ndarray:
    """Return the colours of class ids, uint8 (H, W, 3) RGB.

    Args:
        labels: uint8 (H, W).
        colors: RGB of the classes by id; other ids, such as 255, have none.
        rgb: The camera's image, uint8 (H', W', 3): in grey, it shows through the colours, and alone
            where there are none. Without it, this is black.
    """
    colored = paint(labels, label_palette(colors))
    if rgb is None:
        return colored
    known = np.zeros(256, bool)
    known[list(colors)] = True
    grey = _grey(rgb, labels.shape)
    return np.where(known[labels][..., None], cv2.addWeighted(colored, 0.65, grey, 0.35, 0), grey)


def _grey(rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image in shades of grey at size (H, W), uint8 (H, W, 3)."""
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if grey.shape[:2] != shape:
        grey = cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_AREA)
    return grey
