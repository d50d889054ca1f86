"""How depth is judged: the choices in which publications differ."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from depth_ros.core.metrics.depth import DepthTable, depth_table, garg_crop
from train.evaluation.frames import EvaluatedFrame


class Protocol(NamedTuple):
    """How depth is judged; see the command line."""

    caps: tuple[float, ...]
    crop: str | None
    resize: str
    flip: bool
    limit_truth: bool
    edge_radius: float

    def resized(self, depth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Depth at the size of the ground truth, interpolated by the rule."""
        if self.resize == 'depth':
            return cv2.resize(depth, shape[::-1])
        return 1 / cv2.resize(1 / depth, shape[::-1])

    @property
    def options(self) -> dict:
        """Options of :func:`prepare_depth` besides its caps and scaling."""
        return {'crop': self.crop, 'limit_truth': self.limit_truth}

    def seen(self, truth: np.ndarray, frame: EvaluatedFrame) -> tuple[np.ndarray, Protocol]:
        """The part of the true depth (H, W) that the network sees, and how it is judged.

        A crop is of the whole image; where the network sees less, what is outside of the crop
        becomes unknown.
        """
        shown = frame.seen(truth)
        if shown.shape == truth.shape or self.crop is None:
            return shown, self
        inside = garg_crop(*truth.shape)
        kept = np.zeros_like(truth)
        kept[inside] = truth[inside]
        return frame.seen(kept), self._replace(crop=None)

    def table(
        self,
        depth: np.ndarray,
        truth: np.ndarray,
        focal: float,
        edges: np.ndarray | None,
        affine: bool = False,
    ) -> DepthTable:
        """Errors of one image's depth (h, w); see :func:`depth_table`."""
        return depth_table(
            self.resized(depth, truth.shape),
            truth,
            factor=None if affine else focal,
            affine=affine,
            caps=self.caps,
            edges=edges,
            **self.options,
        )
