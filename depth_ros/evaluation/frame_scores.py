"""Scores of a single frame: against ground truth, where there is some, and the frame before it."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from depth_ros.core.camera import CameraError, Intrinsics
from depth_ros.core.depth_motion import Moved
from depth_ros.core.metrics.baselines import depth_baselines
from depth_ros.core.metrics.depth import CAPS, DepthMetrics, aligned_depth, depth_table
from depth_ros.core.metrics.semantics import confusion, edge_mask
from depth_ros.evaluation import consistency
from depth_ros.inference.classes import ClassMap

EDGE_RADIUS = 5.0
"""Pixels around a semantic edge that count as near it."""

CONSISTENCY_WIDTH = 320
"""Width in pixels at which frames are compared with each other."""


@dataclass
class FrameOutputs:
    """One frame to evaluate: the image and what came out for it.

    Attributes:
        stamp: Header stamp of the image, ns.
        camera: Camera of the original image, in whose pixels a point cloud is compared.
        frame_id: Frame of the camera.
        rgb: The image at the size of `depth`, uint8 (h, w, 3).
        view: Camera of `rgb`, `depth` and `labels`.
        depth: The network's depth everywhere, float32 (h, w), metres or model units; None without.
        published: The same as the node publishes it, NaN = invalid; None: as `depth`.
        labels: Ids of the model's classes, uint8 (h, w); None without.
        others: Further image outputs of the network, by name.
        pose: T_odom_base 4x4; None if the motion before it is not known.
        step: T_previous_current 4x4 of the camera, from the frame evaluated before; None likewise.
        loop: T_0_1, T_1_2, T_0_2 of three images, for some frames; else None.
        numbers: Further columns of the table of frames.
        metric: Whether the scale of `depth` is known; if not, its metres are not judged.
        moved: How far the camera moved since an earlier frame, in units of depth before the scale,
            where that was measured; else None.
    """

    stamp: int
    camera: Intrinsics
    frame_id: str
    rgb: np.ndarray
    view: Intrinsics
    depth: np.ndarray | None = None
    published: np.ndarray | None = None
    labels: np.ndarray | None = None
    others: dict[str, np.ndarray] = field(default_factory=dict)
    pose: np.ndarray | None = None
    step: np.ndarray | None = None
    loop: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    metric: bool = True
    moved: Moved | None = None

    @property
    def published_depth(self) -> np.ndarray | None:
        """Depth as the node publishes it, float32 (h, w); None without."""
        return self.depth if self.published is None else self.published

    def images(self) -> dict[str, np.ndarray]:
        """Return the image outputs as published, by the name of the output."""
        known = {'depth': self.published_depth, 'labels': self.labels}
        return {name: image for name, image in known.items() if image is not None} | self.others


@dataclass
class Example:
    """One frame to look at: what went in, what came out, what is true.

    Attributes:
        stamp_ns: Header stamp.
        rgb: The camera's image, uint8 (H, W, 3).
        depth, true_depth: float32 (H, W), metres or model units; None without.
        labels, true_labels: Ids of the model's or the true classes, uint8 (H, W); None without.
        abs_rel: Abs Rel of this frame's depth at the scale of the truth; None without.
        error: |d - g| / g of each pixel of `true_depth` at the same scale, float32 (H, W), NaN =
            unknown; None without.
        rank: 0 for an example, 1 for the worst frame, 2 for the next, ...
    """

    stamp_ns: int
    rgb: np.ndarray
    depth: np.ndarray | None = None
    labels: np.ndarray | None = None
    true_depth: np.ndarray | None = None
    true_labels: np.ndarray | None = None
    abs_rel: float | None = None
    error: np.ndarray | None = None
    rank: int = 0


@dataclass
class FrameScores:
    """The scores of one frame.

    Attributes:
        numbers: Columns of the table of frames.
        example: The frame, should it be shown.
        rows: Depth metrics by row; see `depth_table`.
        baselines: The same of something trivial; see `depth_baselines`.
        confusion: See `depth_ros.core.metrics.semantics.confusion`; None without true labels.
    """

    numbers: dict[str, float]
    example: Example
    rows: dict[str, DepthMetrics] = field(default_factory=dict)
    baselines: dict[str, DepthMetrics] = field(default_factory=dict)
    confusion: np.ndarray | None = None


class FrameScorer:
    """Computes the scores of single frames; it keeps nothing, so threads may share it.

    Args:
        classes: Which true class each of the model's classes is; None without semantics.
        metric: Whether depth is in metres.
        affine: Whether scale and shift of inverse depth are unknown. Depth is then evaluated after
            both are fitted to the truth in each frame, and not compared between frames.
        depth_range: Nearest and farthest depth that the model can say, metres; None: not known.
        camera_height: Of the camera over the ground, metres; 0: not known.
        caps: Farthest true depths that count, metres; each after the first gives rows of its own.
    """

    def __init__(
        self,
        classes: ClassMap | None,
        metric: bool,
        affine: bool,
        depth_range: tuple[float, float] | None = None,
        camera_height: float = 0.0,
        caps: tuple[float, ...] = CAPS,
    ) -> None:
        self._caps = caps
        self._classes, self._metric, self._affine = classes, metric, affine
        self._range, self._height = depth_range, camera_height

    def score(
        self,
        frame: FrameOutputs,
        previous: FrameOutputs | None,
        true_depth: np.ndarray | None,
        true_labels: np.ndarray | None,
    ) -> FrameScores:
        """Return the scores of a frame.

        Args:
            frame: The frame.
            previous: The frame before it; None without.
            true_depth: float32 (H, W) of what `frame.view` shows, metres, NaN = unknown; None
                without.
            true_labels: Ids of the truth's own classes, uint8 (H, W); None without.
        """
        example = Example(frame.stamp, frame.rgb, frame.published_depth, frame.labels)
        result = FrameScores({'stamp': frame.stamp / 1e9, **frame.numbers}, example)
        if true_labels is not None and self._classes:
            true_labels = self._classes.truth(true_labels)
        if true_depth is not None and frame.depth is not None:
            self._score_depth(result, frame, frame.depth, true_depth, true_labels)
        if true_labels is not None and self._classes and frame.labels is not None:
            _score_labels(result, self._classes, frame.labels, true_labels)
        if not self._affine:  # else the depths of two frames have nothing in common
            _score_consistency(result, frame, previous)
        return result

    def _score_depth(
        self,
        result: FrameScores,
        frame: FrameOutputs,
        depth: np.ndarray,
        truth: np.ndarray,
        true_labels: np.ndarray | None,
    ) -> None:
        metric = self._metric and frame.metric
        depth = _resize_depth(depth, truth.shape)
        edges, labels, names = None, None, []
        if self._classes:
            names = [c.name for c in self._classes.classes]
            if true_labels is not None:
                labels = _resize_labels(true_labels, truth.shape)
                edges = edge_mask(labels, EDGE_RADIUS)
            elif frame.labels is not None:
                labels = self._classes.predicted(_resize_labels(frame.labels, truth.shape))
                names = [f'{name} (predicted)' for name in names]  # by the model's own masks
        table = depth_table(
            depth,
            truth,
            factor=1.0 if metric else None,
            affine=self._affine,
            caps=self._caps,
            edges=edges,
            labels=labels,
            names=names,
        )
        if not table.rows:
            return
        result.rows = table.rows
        height = self._height if metric else 0.0
        result.baselines = depth_baselines(
            truth, frame.view, height=height, affine=self._affine, max_depth=self._caps[0]
        )
        numbers, example = result.numbers, result.example
        numbers['abs_rel'], numbers['scale'] = table.aligned.abs_rel, table.scale
        if metric:
            numbers['abs_rel_published'] = table.rows['as_published'].abs_rel
        known = np.isfinite(truth) & (truth > 0)
        if self._range is not None:
            low, high = self._range
            numbers['out_of_range'] = float(((truth < low) | (truth > high))[known].mean())
        assert example.depth is not None
        shown = _resize_labels(np.isfinite(example.depth).view(np.uint8), truth.shape)
        numbers['coverage'] = float(shown[known].mean())
        example.true_depth = truth
        example.abs_rel = numbers['abs_rel']
        with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
            aligned = aligned_depth(depth, table.scale, table.shift)
            error = np.abs(aligned - truth) / truth
        if self._affine:
            example.depth = aligned_depth(example.depth, table.scale, table.shift)
        example.error = np.where(known, error, np.nan).astype(np.float32)


def _score_labels(
    result: FrameScores, classes: ClassMap, labels: np.ndarray, truth: np.ndarray
) -> None:
    found = classes.predicted(_resize_labels(labels, truth.shape))
    matrix = confusion(found, truth, len(classes.classes))
    result.confusion = matrix
    if matrix.any():
        result.numbers['label_accuracy'] = float(np.trace(matrix) / matrix.sum())
    result.example.true_labels = truth


def _score_consistency(
    result: FrameScores, frame: FrameOutputs, previous: FrameOutputs | None
) -> None:
    if frame.step is None or frame.depth is None or previous is None or previous.depth is None:
        return
    if previous.view != frame.view:
        return
    numbers = result.numbers
    numbers['step'] = float(np.linalg.norm(frame.step[:3, 3]))
    (past, past_depth), (now, depth) = _small(previous), _small(frame)
    camera = frame.view.resized(*now.shape[::-1])
    try:
        loss = consistency.photometric_loss(past, now, depth, camera, frame.step)
        numbers['photometric'], numbers['photometric_static'] = loss.predicted, loss.static
        found = consistency.depth_inconsistency(past_depth, depth, camera, frame.step)
        numbers['inconsistency'], numbers['scale_step'] = found.mean, found.ratio
    except (CameraError, ValueError):  # no pixel of this pair can be compared
        pass


def _small(frame: FrameOutputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey image and the published depth, at most `CONSISTENCY_WIDTH` wide.

    Colours and more pixels hardly change the scores, but take ten times as long.
    """
    depth = frame.published_depth
    assert depth is not None
    grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
    height, width = depth.shape
    shrink = -(-width // CONSISTENCY_WIDTH)
    if shrink == 1:
        return grey, depth
    size = width // shrink, height // shrink
    return (
        cv2.resize(grey, size, interpolation=cv2.INTER_AREA),
        cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def _resize_depth(depth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return depth at size (H, W), its inverse interpolated."""
    if depth.shape == shape:
        return depth
    return 1 / cv2.resize(1 / depth, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _resize_labels(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape == shape:
        return labels
    return cv2.resize(labels, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
