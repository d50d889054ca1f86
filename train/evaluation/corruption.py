"""Images as bad weather, bad light, bad lenses and bad encoders make them, to judge a network by.

The kinds are among those of Hendrycks and Dietterich (ICLR 2019), at about their middle severity.
Strengths that are lengths follow the image's width, so that a network sees the same at any size.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

WIDTH = 640.0
"""Width, pixels, that lengths below are given for."""


def fog(image: np.ndarray) -> np.ndarray:
    """Half of the light is that of white air; banks of it are thicker and thinner."""
    height, width = image.shape[:2]
    coarse = np.random.default_rng(0).random((4, 8), np.float32)
    banks = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    veil = np.clip(0.4 + 0.25 * banks, 0, 1)[..., None]
    return _bytes(image * (1 - veil) + 220 * veil)


def dark(image: np.ndarray) -> np.ndarray:
    """A fifth of the light, with the noise of a sensor that is turned up."""
    noise = np.random.default_rng(1).standard_normal(image.shape)
    return _bytes(0.2 * image + 4 * noise)


def noise(image: np.ndarray) -> np.ndarray:
    """Gaussian noise of 25 grey levels."""
    return _bytes(image + 25 * np.random.default_rng(2).standard_normal(image.shape))


def blur(image: np.ndarray) -> np.ndarray:
    """Out of focus: a Gaussian of 3 pixels."""
    return cv2.GaussianBlur(image, (0, 0), 3 * image.shape[1] / WIDTH)


def jpeg(image: np.ndarray) -> np.ndarray:
    """JPEG of quality 10 at 640 pixels' width."""
    height, width = image.shape[:2]
    size = int(WIDTH), round(height * WIDTH / width)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, 10])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it has just been encoded
    return cv2.resize(decoded, (width, height))


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    function.__name__: function for function in (fog, dark, noise, blur, jpeg)
}
"""By name; each takes and returns uint8 (H, W, 3), BGR."""


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
