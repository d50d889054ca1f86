"""Judges outputs frame by frame, against ground truth where there is some and against each other.

Plain arrays in, numbers and pictures out; where they come from, a run of the networks or a
recording of the nodes, is for others to know.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import cv2
import numpy as np

from depth_ros.bags.ground_truth import GroundTruth
from depth_ros.core.camera import CameraError, Intrinsics
from depth_ros.core.metrics.depth import DepthMetrics, aligned_depth, depth_table
from depth_ros.core.metrics.semantics import confusion, edge_mask, semantics_table
from depth_ros.core.metrics.trajectory import path_length, pose_metrics, trajectory_table
from depth_ros.core.se3 import inverse
from depth_ros.evaluation import consistency
from depth_ros.inference.classes import ClassMap

WORST = 10
EXAMPLES = 4
EDGE_RADIUS = 5.0
"""Pixels around a semantic edge that count as near it."""

SHORTEST_DRIFT = 30.0
"""Seconds from which a drift per minute can be told."""

CONSISTENCY_WIDTH = 320
"""Pixels at which frames are compared with each other."""

IN_FLIGHT = 4
"""Frames that are judged at the same time as others are made."""

COLUMNS = (
    'stamp',
    'perception_ms',
    'odometry_ms',
    'age_ms',
    'abs_rel',
    'abs_rel_published',
    'scale',
    'coverage',
    'photometric',
    'photometric_static',
    'inconsistency',
    'scale_step',
    'label_accuracy',
    'position_error',
)
"""Of the table of frames: seconds, milliseconds, shares, metres; see docs/evaluation.md."""


@dataclass
class Judgeable:
    """One frame to judge.

    Attributes:
        stamp: Header stamp of the image, ns.
        camera: Of the camera's image, in whose pixels a point cloud is compared.
        frame_id: Of the camera.
        rgb: uint8 (h, w, 3), at the size of `depth`.
        view: Camera of `rgb`, `depth` and `labels`.
        depth: float32 (h, w) as it is judged, metres or model units; None without.
        published: The same as published, NaN = invalid.
        labels: uint8 (h, w), ids of the model's classes; None without.
        pose: T_odom_base 4x4; None where the motion before it is not known.
        step: T_previous_current of the camera, from the frame judged before; None likewise.
        loop: T_0_1, T_1_2, T_0_2 of three images, now and then; else None.
        numbers: Further columns of the table of frames.
        others: What else the perception network gives, by name of its output.
    """

    stamp: int
    camera: Intrinsics
    frame_id: str
    rgb: np.ndarray
    view: Intrinsics
    depth: np.ndarray | None = None
    published: np.ndarray | None = None
    labels: np.ndarray | None = None
    pose: np.ndarray | None = None
    step: np.ndarray | None = None
    loop: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    others: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Picture:
    """One frame to look at: what went in, what came out, what is true.

    Attributes:
        stamp_ns: Header stamp.
        rgb: The camera's image, uint8 (H, W, 3).
        depth, true_depth: float32 (H, W), metres or model units; None without.
        labels, true_labels: uint8 (H, W), ids of the model's or the true classes; None without.
        abs_rel: Abs Rel of this frame's depth brought to the scale of the truth; None without.
        error: float32 (H, W), |d - g| / g of each pixel of `true_depth`, likewise, NaN = unknown;
            None without.
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
class Evaluation:
    """The result. What could not be judged is empty or None, and `notes` say why.

    Attributes:
        numbers: `depth`, `semantics`, `trajectory`, `odometry` and `consistency` of json.
        frames: Columns of the table of frames, float64 (N,), NaN = unknown.
        pictures: Frames to look at.
        estimate: Positions by the odometry, (N, 3), in its own frame.
        aligned_poses: The poses at whose stamps the truth is known, aligned with it by Sim(3),
            (K, 4, 4); K = 0 if it cannot be.
        truth: True positions, (M, 3).
        poses: Stamps in ns (N,), estimated poses (N, 4, 4) and true ones (N, 4, 4), NaN = unknown.
        notes: What is missing and why.
    """

    numbers: dict
    frames: dict[str, np.ndarray]
    pictures: list[Picture]
    estimate: np.ndarray
    aligned_poses: np.ndarray
    truth: np.ndarray
    poses: tuple[np.ndarray, np.ndarray, np.ndarray]
    notes: list[str]

    @property
    def aligned(self) -> np.ndarray:
        """Positions of the aligned poses, (K, 3)."""
        return self.aligned_poses[:, :3, 3]


@dataclass
class _Judged:
    """What one frame was found to be; see `Judge._measure`."""

    numbers: dict[str, float]
    picture: Picture
    rows: dict[str, DepthMetrics] = field(default_factory=dict)
    confusion: np.ndarray | None = None


class Judge:
    """Takes frames in the order of time, and sums up.

    Args:
        truth: The ground truth.
        classes: Which true class each of the model's is; None without semantics.
        metric: Whether depth is in metres.
        frames: How many there will be, about: for the choice of examples.
        pool: Runs the heavy part beside whatever makes the frames.
        affine: Whether scale and shift of inverse depth are unknown. It is then judged after both
            are fitted to the truth in each frame, and not compared between frames.
    """

    def __init__(
        self,
        truth: GroundTruth,
        classes: ClassMap | None,
        metric: bool,
        frames: int,
        pool: Executor,
        affine: bool = False,
    ) -> None:
        self._truth, self._classes, self._metric, self._pool = truth, classes, metric, pool
        self._affine = affine
        self._waiting: deque[Future[_Judged]] = deque()
        self._table: list[dict[str, float]] = []
        self._sums: dict[str, np.ndarray] = {}  # per row: sums of the metrics, and how many
        self._confusion: np.ndarray | None = None
        self._label_frames = 0
        self._previous: Judgeable | None = None
        self._poses: dict[int, np.ndarray] = {}
        self._loops: list[consistency.LoopError] = []
        self._examples = set(np.linspace(0, max(frames - 1, 0), EXAMPLES + 2)[1:-1].astype(int))
        self._owed = 0
        self._chosen: list[Picture] = []
        self._worst: list[tuple[bool, float, int, Picture]] = []

    def add(self, frame: Judgeable) -> _Judged | None:
        """Take the next frame; returns an earlier one that has been judged meanwhile."""
        true_depth = true_labels = None
        if frame.depth is not None:
            true_depth = self._truth.depth(frame.stamp, frame.camera, frame.frame_id)
        if frame.labels is not None:
            true_labels = self._truth.labels(frame.stamp)
        if frame.pose is not None:
            self._poses[frame.stamp] = frame.pose
        if frame.loop is not None:
            try:
                self._loops.append(consistency.loop_error(*frame.loop))
            except ValueError:  # it does not move
                pass
        self._waiting.append(
            self._pool.submit(self._measure, frame, self._previous, true_depth, true_labels)
        )
        self._previous = frame
        return self._collect() if len(self._waiting) > IN_FLIGHT else None

    def _measure(
        self,
        frame: Judgeable,
        previous: Judgeable | None,
        true_depth: np.ndarray | None,
        true_labels: np.ndarray | None,
    ) -> _Judged:
        """Everything about one frame that needs no other but the one before."""
        shown = frame.published if frame.published is not None else frame.depth
        picture = Picture(frame.stamp, frame.rgb, shown, frame.labels)
        numbers = {'stamp': frame.stamp / 1e9, **frame.numbers}
        result = _Judged(numbers, picture)
        if true_labels is not None:
            true_labels = self._classes.truth(true_labels)
        if true_depth is not None:
            self._judge_depth(result, frame, true_depth, true_labels)
        if true_labels is not None:
            self._judge_labels(result, frame, true_labels)
        if not self._affine:  # else depths of two frames have nothing to do with each other
            _judge_consistency(result, frame, previous)
        return result

    def _judge_depth(
        self, result: _Judged, frame: Judgeable, truth: np.ndarray, true_labels: np.ndarray | None
    ) -> None:
        depth = _resize_depth(frame.depth, truth.shape)
        edges, labels, names = None, None, ()
        if self._classes:
            names = [c.name for c in self._classes.classes]
            if true_labels is not None:
                labels = _resize_labels(true_labels, truth.shape)
                edges = edge_mask(labels, EDGE_RADIUS)
            elif frame.labels is not None:
                labels = self._classes.predicted(_resize_labels(frame.labels, truth.shape))
        table = depth_table(
            depth,
            truth,
            factor=1.0 if self._metric else None,
            affine=self._affine,
            edges=edges,
            labels=labels,
            names=names,
        )
        if not table.rows:
            return
        result.rows = table.rows
        numbers = result.numbers
        numbers['abs_rel'], numbers['scale'] = table.aligned.abs_rel, table.scale
        if self._metric:
            numbers['abs_rel_published'] = table.rows['as_published'].abs_rel
        known = np.isfinite(truth) & (truth > 0)
        shown = _resize_labels(np.isfinite(result.picture.depth).view(np.uint8), truth.shape)
        numbers['coverage'] = float(shown[known].mean())
        result.picture.true_depth = truth
        result.picture.abs_rel = numbers['abs_rel']
        with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
            error = (
                np.abs(aligned_depth(depth, np.float32(table.scale), table.shift) - truth) / truth
            )
        if self._affine:
            result.picture.depth = aligned_depth(result.picture.depth, table.scale, table.shift)
        result.picture.error = np.where(known, error, np.nan).astype(np.float32)

    def _judge_labels(self, result: _Judged, frame: Judgeable, truth: np.ndarray) -> None:
        found = self._classes.predicted(_resize_labels(frame.labels, truth.shape))
        matrix = confusion(found, truth, len(self._classes.classes))
        result.confusion = matrix
        if matrix.any():
            result.numbers['label_accuracy'] = float(np.trace(matrix) / matrix.sum())
        result.picture.true_labels = truth

    def _collect(self) -> _Judged:
        judged = self._waiting.popleft().result()
        index = len(self._table)
        self._table.append(judged.numbers)
        for name, row in judged.rows.items():
            sums = self._sums.setdefault(name, np.zeros(len(row) + 1))
            sums += (*row, 1)
        if judged.confusion is not None:
            self._confusion = judged.confusion + (0 if self._confusion is None else self._confusion)
            self._label_frames += 1
        picture = judged.picture
        self._owed += index in self._examples
        # Truth may come with fewer frames: those with it are better to look at.
        if self._owed and (picture.true_depth is not None or not self._truth.has_depth):
            self._owed -= 1
            self._chosen.append(picture)
        # A frame that is known to be wrong is worse than one that only seems so.
        known = 'abs_rel' in judged.numbers
        badness = judged.numbers.get('abs_rel' if known else 'photometric', math.nan)
        if math.isfinite(badness):
            heapq.heappush(self._worst, (known, badness, -index, picture))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)
        return judged

    def finish(self) -> tuple[Evaluation, list[_Judged]]:
        """Sum up; returns the result and the last frames, that `add` has not returned."""
        last = []
        while self._waiting:
            last.append(self._collect())
        frames = {
            name: np.array([row.get(name, math.nan) for row in self._table])
            for name in COLUMNS
            if any(name in row for row in self._table)
        }
        worst = [row[-1] for row in sorted(self._worst, reverse=True)]
        for rank, picture in enumerate(worst, 1):
            picture.rank = rank
        pictures = worst + [p for p in self._chosen if not p.rank]
        notes = [f'{reason} ({count} times)' for reason, count in self._truth.problems.items()]
        result = Evaluation(
            numbers={
                'depth': self._depth_numbers(frames),
                'semantics': self._label_numbers(),
                'consistency': self._consistency_numbers(frames),
            },
            frames=frames,
            pictures=pictures,
            estimate=np.empty((0, 3)),
            aligned_poses=np.empty((0, 4, 4)),
            truth=self._truth.track.poses[:, :3, 3],
            poses=(np.empty(0, np.int64), np.empty((0, 4, 4)), np.empty((0, 4, 4))),
            notes=notes,
        )
        self._judge_trajectory(result)
        return result, last

    def _depth_numbers(self, frames: dict[str, np.ndarray]) -> dict | None:
        if not self._sums:
            return None
        order = [n for n in self._sums if not n.startswith('class:')]
        order += [n for n in self._sums if n.startswith('class:')]
        rows = {
            name: DepthMetrics(*(self._sums[name][:-1] / self._sums[name][-1]).tolist())._asdict()
            for name in order
        }
        known = np.isfinite(frames['scale'])
        scales, stamps = frames['scale'][known], frames['stamp'][known]
        return {
            'frames': int(known.sum()),
            'rows': rows,
            'scale_median': float(np.median(scales)),
            'scale_spread': float(np.std(scales / np.median(scales))),
            'scale_drift_percent_per_minute': _drift(stamps, scales),
            'coverage': float(np.nanmean(frames['coverage'])),
        }

    def _label_numbers(self) -> dict | None:
        if self._confusion is None or not self._confusion.any():
            return None
        names = [c.name for c in self._classes.classes]
        return {
            'frames': self._label_frames,
            **semantics_table(self._confusion, names),
            'classes': names,
            'confusion': self._confusion.tolist(),
        }

    def _consistency_numbers(self, frames: dict[str, np.ndarray]) -> dict | None:
        numbers: dict = {}
        if 'photometric' in frames:
            predicted, static = frames['photometric'], frames['photometric_static']
            numbers |= {
                'frames': int(np.isfinite(predicted).sum()),
                'photometric': float(np.nanmean(predicted)),
                'photometric_static': float(np.nanmean(static)),
            }
            if np.nansum(static) > 0:  # the image changes
                numbers['explained_percent'] = 100 * float(
                    1 - np.nansum(predicted) / np.nansum(static)
                )
        if 'inconsistency' in frames:
            steps = frames['scale_step']
            known = np.isfinite(steps)
            scale = consistency.accumulated_scale(steps[known])[1:]
            numbers |= {
                'inconsistency': float(np.nanmean(frames['inconsistency'])),
                'scale_step_spread_percent': 100 * float(np.std(steps[known])),
                'scale_drift_percent_per_minute': _drift(frames['stamp'][known], scale),
            }
        if self._loops:
            translation, rotation = np.mean(self._loops, axis=0)
            numbers |= {
                'loop_translation_percent': 100 * float(translation),
                'loop_rotation_deg': float(rotation),
            }
        return numbers or None

    def _judge_trajectory(self, result: Evaluation) -> None:
        """Fill in what the poses say: numbers, paths, and each frame's error of position."""
        stamps = np.array(sorted(self._poses), np.int64)
        poses = np.array([self._poses[s] for s in stamps.tolist()]).reshape(-1, 4, 4)
        result.estimate = poses[:, :3, 3]
        result.numbers['odometry'] = {
            'poses': len(poses),
            'length': path_length(poses[:, :3, 3]) if len(poses) else 0.0,
        }
        result.numbers['trajectory'] = None
        truth = self._truth.track.at(stamps, self._truth.tolerance)
        result.poses = stamps, poses, truth
        if not len(self._truth.track) or not len(poses):
            return
        known = np.isfinite(truth).all(axis=(1, 2))
        try:
            numbers = trajectory_table(poses[known], truth[known])
            aligned = pose_metrics(poses[known], truth[known], 'sim3').aligned
        except ValueError as error:
            result.notes.append(f'the trajectory cannot be judged: {error}')
            return
        result.numbers['trajectory'] = {'poses': int(numbers.pop('frames')), **numbers}
        result.aligned_poses = aligned
        errors = dict(
            zip(
                (stamps[known] / 1e9).tolist(),
                np.linalg.norm(result.aligned - truth[known][:, :3, 3], axis=1).tolist(),
                strict=True,
            )
        )
        result.frames['position_error'] = np.array(
            [errors.get(s, math.nan) for s in result.frames['stamp'].tolist()]
        )


def _judge_consistency(result: _Judged, frame: Judgeable, previous: Judgeable | None) -> None:
    if frame.step is None or frame.depth is None or previous is None or previous.depth is None:
        return
    if previous.view != frame.view:
        return
    numbers = result.numbers
    (past, past_depth), (now, depth) = _small(previous), _small(frame)
    camera = frame.view.resized(*now.shape[::-1])
    try:
        error = consistency.photometric_error(past, now, depth, camera, frame.step)
        numbers['photometric'], numbers['photometric_static'] = error.predicted, error.static
        found = consistency.depth_inconsistency(past_depth, depth, camera, frame.step)
        numbers['inconsistency'], numbers['scale_step'] = found.mean, found.ratio
    except (CameraError, ValueError):  # no pixel of this pair can be compared
        pass


def _small(frame: Judgeable) -> tuple[np.ndarray, np.ndarray]:
    """Grey image and published depth at `CONSISTENCY_WIDTH` at most.

    Grey tells as much as colours, and a smaller image as much as a large one, in a tenth of the
    time.
    """
    depth = frame.published if frame.published is not None else frame.depth
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


def _drift(stamps: np.ndarray, scales: np.ndarray) -> float | None:
    """Percent per minute; None for too short a time, or stamps that do not increase."""
    if not len(stamps) or stamps[-1] - stamps[0] < SHORTEST_DRIFT:
        return None
    try:
        return consistency.scale_drift(stamps, scales).drift
    except ValueError:
        return None


def _resize_depth(depth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Depth at the size of the truth, inverse depth interpolated."""
    if depth.shape == shape:
        return depth
    return 1 / cv2.resize(1 / depth, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _resize_labels(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape == shape:
        return labels
    return cv2.resize(labels, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def camera_step(previous: np.ndarray, current: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    """T_previous_current of the camera, from two poses T_odom_base and T_base_camera."""
    return inverse(extrinsic) @ inverse(previous) @ current @ extrinsic
