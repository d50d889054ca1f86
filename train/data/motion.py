"""How far a camera has moved between stored pictures, and how sharp they are."""

from __future__ import annotations

import cv2
import numpy as np

from train.data.sequences import DataError


def small(data: bytes) -> np.ndarray:
    """Return an encoded picture at half its size, grey (H / 2, W / 2) uint8.

    Raises:
        DataError: if it is damaged.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    if image is None:
        raise DataError('a picture that an earlier run has written is damaged')
    return image


class Motion:
    """Measures how far the picture has moved since the last frame that was kept.

    This is the median length of the optical flow: moving cars around a standing camera do not count
    as motion, and a camera that creeps has moved in the end.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: np.ndarray | None = None

    def since_kept(self, image: np.ndarray) -> float:
        """Return the motion in pixels of the stored size; infinite for the first picture.

        Args:
            image: As `small` returns it.
        """
        if self._last is None:
            return np.inf
        # OpenCV's types do not know that the flow to begin with may be missing.
        flow = self._flow.calc(self._last, image, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return 2 * float(np.median(np.hypot(flow[..., 0], flow[..., 1])))

    def keep(self, image: np.ndarray) -> None:
        """Measure the following frames from this one."""
        self._last = image


def sharpness(image: np.ndarray) -> float:
    """Return the power of the finest detail in a picture, as a share of all its contrast."""
    return float(cv2.Laplacian(image, cv2.CV_32F).var() / max(float(image.var()), 1.0))
