"""Scores frame by frame and sums up, against ground truth and between neighbouring frames.

Plain arrays in, numbers and pictures out. Whether they come from a run of the networks or from a
recording of the nodes is no matter here.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np

from depth_ros.bags.ground_truth import GroundTruth
from depth_ros.core.camera import shown_part
from depth_ros.core.depth_motion import Moved
from depth_ros.core.metrics.baselines import (
    CONSTANT,
    IN_METRES,
    BestConstant,
    one_class,
    trajectory_baselines,
)
from depth_ros.core.metrics.depth import CAPS, DepthMetrics, garg_crop
from depth_ros.core.metrics.semantics import semantics_table
from depth_ros.core.metrics.trajectory import path_length, pose_metrics, trajectory_table
from depth_ros.core.se3 import inverse
from depth_ros.evaluation import consistency, scale_error
from depth_ros.evaluation.frame_scores import Example, FrameOutputs, FrameScorer, FrameScores
from depth_ros.inference.classes import ClassMap

WORST = 10
"""How many of the worst frames are shown."""

EXAMPLES = 4
"""How many other frames are shown."""

SHORTEST_DRIFT = 30.0
"""Seconds of recording below which no drift per minute is reported."""

STILL = 0.01
"""Photometric difference of two images up to which nothing moves: their noise alone."""

OPEN_LOOPS = 35.0
"""Percent by which loops do not close from which motion hardly depends on the images. A network
that answers the same to any two images leaves half of each loop open."""

FEW_POSES = 10
"""Fewer true poses than this say little about a trajectory."""

IN_FLIGHT = 4
"""Frames that may wait for their scores while further frames are made."""

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
    *scale_error.COLUMNS,
)
"""Of the table of frames: seconds, milliseconds, shares, metres; see docs/evaluation.md."""


@dataclass
class Evaluation:
    """The result. What could not be evaluated is empty or None, and `notes` say why.

    Attributes:
        numbers: `depth`, `semantics`, `trajectory`, `odometry`, `consistency` and `scale` of
            metrics.json.
        frames: Columns of the table of frames, float64 (N,), NaN = unknown.
        examples: Frames to look at.
        estimate: Positions by the odometry, (N, 3), in its own frame.
        aligned_poses: The poses at whose stamps the truth is known, aligned with it by Sim(3),
            (K, 4, 4); K = 0 if they cannot be aligned.
        truth: True positions, (M, 3).
        poses: Stamps in ns (N,), estimated poses (N, 4, 4) and true ones (N, 4, 4), NaN = unknown.
        notes: What is missing and why.
    """

    numbers: dict
    frames: dict[str, np.ndarray]
    examples: list[Example]
    estimate: np.ndarray
    aligned_poses: np.ndarray
    truth: np.ndarray
    poses: tuple[np.ndarray, np.ndarray, np.ndarray]
    notes: list[str]

    @property
    def aligned(self) -> np.ndarray:
        """Positions of the aligned poses, (K, 3)."""
        return self.aligned_poses[:, :3, 3]


class FrameEvaluator:
    """Takes frames in the order of time, and sums up.

    Args:
        truth: The ground truth.
        classes: Which true class each of the model's classes is; None without semantics.
        metric: Whether depth is in metres.
        frames: Expected number of frames, for the choice of examples.
        pool: Scores the frames, beside whatever makes them.
        affine, depth_range, camera_height, caps: See `FrameScorer`.
        crop: Which part of the whole image counts for depth: None for all, or 'garg'.
    """

    def __init__(
        self,
        truth: GroundTruth,
        classes: ClassMap | None,
        metric: bool,
        frames: int,
        pool: Executor,
        affine: bool = False,
        depth_range: tuple[float, float] | None = None,
        camera_height: float = 0.0,
        caps: tuple[float, ...] = CAPS,
        crop: str | None = None,
    ) -> None:
        self._crop = crop
        self._truth, self._classes, self._pool = truth, classes, pool
        self._scorer = FrameScorer(classes, metric, affine, depth_range, camera_height, caps)
        self._range = depth_range
        self._waiting: deque[Future[FrameScores]] = deque()
        self._table: list[dict[str, float]] = []
        self._sums: dict[str, np.ndarray] = {}  # per row: sums of the metrics, number of frames
        self._trivial: dict[str, np.ndarray] = {}  # the same of the baselines
        self._constant = BestConstant()
        self._metric = metric
        self._moves: list[Moved] = []
        self._confusion: np.ndarray | None = None
        self._label_frames = 0
        self._previous: FrameOutputs | None = None
        self._poses: dict[int, np.ndarray] = {}
        self._loops: list[consistency.LoopClosure] = []
        self._examples = set(np.linspace(0, max(frames - 1, 0), EXAMPLES + 2)[1:-1].astype(int))
        self._owed = 0
        self._chosen: list[Example] = []
        self._worst: list[tuple[bool, float, int, Example]] = []

    def add(self, frame: FrameOutputs) -> FrameScores | None:
        """Take the next frame; returns the scores of an earlier one, if they are ready."""
        true_depth = true_labels = None
        if frame.depth is not None:
            true_depth = self._truth.depth(frame.stamp, frame.camera, frame.frame_id)
            if true_depth is not None and self._crop == 'garg':
                inside = garg_crop(*true_depth.shape)
                kept = np.full_like(true_depth, np.nan)
                kept[inside] = true_depth[inside]
                true_depth = kept
        if frame.labels is not None:
            true_labels = self._truth.labels(frame.stamp)
        # Truth is of the whole image; what the network sees may be a part of it.
        true_depth, true_labels = (
            None
            if truth is None
            else truth[shown_part(frame.camera, frame.view, *truth.shape[1::-1])]
            for truth in (true_depth, true_labels)
        )
        if frame.pose is not None:
            self._poses[frame.stamp] = frame.pose
        if frame.moved is not None:
            self._moves.append(frame.moved)
        if frame.loop is not None:
            try:
                self._loops.append(consistency.loop_closure(*frame.loop))
            except ValueError:  # the camera does not move
                pass
        self._waiting.append(
            self._pool.submit(self._scorer.score, frame, self._previous, true_depth, true_labels)
        )
        self._previous = frame
        return self._collect() if len(self._waiting) > IN_FLIGHT else None

    def _collect(self) -> FrameScores:
        scores = self._waiting.popleft().result()
        index = len(self._table)
        self._table.append(scores.numbers)
        for table, rows in ((self._sums, scores.rows), (self._trivial, scores.baselines)):
            for name, row in rows.items():
                sums = table.setdefault(name, np.zeros(len(row) + 1))
                sums += (*row, 1)
        if scores.example.true_depth is not None:
            self._constant.add(scores.example.true_depth)
        if scores.confusion is not None:
            self._confusion = scores.confusion + (0 if self._confusion is None else self._confusion)
            self._label_frames += 1
        example = scores.example
        self._owed += index in self._examples
        # Not every frame may have true depth: those that have it are better to look at.
        if self._owed and (example.true_depth is not None or not self._truth.has_depth):
            self._owed -= 1
            self._chosen.append(example)
        # Frames with known errors rank before those that only look inconsistent.
        known = 'abs_rel' in scores.numbers
        badness = scores.numbers.get('abs_rel' if known else 'photometric', math.nan)
        if math.isfinite(badness):
            heapq.heappush(self._worst, (known, badness, -index, example))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)
        return scores

    def finish(self) -> tuple[Evaluation, list[FrameScores]]:
        """Sum up; returns the result, and the scores that `add` has not returned."""
        last = []
        while self._waiting:
            last.append(self._collect())
        frames = {
            name: np.array([row.get(name, math.nan) for row in self._table])
            for name in COLUMNS
            if any(name in row for row in self._table)
        }
        worst = [row[-1] for row in sorted(self._worst, reverse=True)]
        for rank, example in enumerate(worst, 1):
            example.rank = rank
        examples = worst + [e for e in self._chosen if not e.rank]
        notes = [f'{reason} ({count} times)' for reason, count in self._truth.problems.items()]
        scale = scale_error.scale_numbers(frames, self._moves, self._truth)
        result = Evaluation(
            numbers={
                'scale': scale,
                'depth': self._depth_numbers(frames),
                'semantics': self._label_numbers(),
                'consistency': self._consistency_numbers(frames),
            },
            frames=frames,
            examples=examples,
            estimate=np.empty((0, 3)),
            aligned_poses=np.empty((0, 4, 4)),
            truth=self._truth.track.poses[:, :3, 3],
            poses=(np.empty(0, np.int64), np.empty((0, 4, 4)), np.empty((0, 4, 4))),
            notes=notes,
        )
        self._evaluate_trajectory(result)
        result.notes += self._doubts(result.numbers)
        return result, last

    def _doubts(self, numbers: dict) -> list[str]:
        """Return in words what the numbers alone do not tell."""
        notes = []
        depth, seen = numbers['depth'] or {}, numbers['consistency'] or {}
        outside = depth.get('out_of_range_percent', 0.0)
        if self._range is not None and outside >= 1:
            low, high = self._range
            notes.append(
                f'{outside:.0f} % of the true depth is outside of what the model can say '
                f'({low:g} to {high:g} m): its errors there are those of the limit'
            )
        if any(name.endswith('(predicted)') for name in depth.get('rows', {})):
            notes.append(
                "depth by class is by the model's own masks (predicted), for want of true ones"
            )
        loops = seen.get('loop_translation_percent', 0.0)
        if loops >= OPEN_LOOPS:
            notes.append(
                f'the motion hardly depends on the images: loops do not close by {loops:.0f} %, '
                'and by 50 % where the answer is always the same; do not trust the odometry'
            )
        still = np.array(
            [
                (row['step'], row['photometric_static'] <= STILL)
                for row in self._table
                if 'step' in row and 'photometric_static' in row
            ]
        ).reshape(-1, 2)
        moved = still[still[:, 1] > 0, 0]
        if len(moved):
            text = f'{len(moved)} of {len(still)} images hardly differ from the one before'
            others = still[still[:, 1] == 0, 0]
            usual = float(np.median(others)) if len(others) else 0.0
            if np.median(moved) > max(0.3 * usual, 1e-3):
                text += (
                    f', yet the odometry moves {np.median(moved):.3g} a step there: its motion '
                    'does not depend on the images'
                )
            notes.append(text)
        return notes

    def _depth_numbers(self, frames: dict[str, np.ndarray]) -> dict | None:
        if not self._sums:
            return None
        order = [n for n in self._sums if not n.startswith('class:')]
        order += [n for n in self._sums if n.startswith('class:')]
        trivial = {name: _mean(sums) for name, sums in self._trivial.items()}
        if self._metric and (best := self._constant.errors()) is not None:
            trivial[CONSTANT + IN_METRES] = {**best[1]._asdict(), 'depth': best[0]}
        known = np.isfinite(frames['scale'])
        scales, stamps = frames['scale'][known], frames['stamp'][known]
        return {
            'frames': int(known.sum()),
            'rows': {name: _mean(self._sums[name]) for name in order},
            'baselines': trivial,
            'scale_median': float(np.median(scales)),
            'scale_spread': float(np.std(scales / np.median(scales))),
            'scale_drift_percent_per_minute': _drift(stamps, scales),
            'coverage': float(np.nanmean(frames['coverage'])),
            **self._out_of_range(),
        }

    def _out_of_range(self) -> dict[str, float]:
        found = [row['out_of_range'] for row in self._table if 'out_of_range' in row]
        return {'out_of_range_percent': 100 * float(np.mean(found))} if found else {}

    def _label_numbers(self) -> dict | None:
        if self._confusion is None or not self._confusion.any() or not self._classes:
            return None
        names = [c.name for c in self._classes.classes]
        return {
            'frames': self._label_frames,
            **semantics_table(self._confusion, names),
            'baselines': {'one_class': one_class(self._confusion)},
            'classes': names,
            'confusion': self._confusion.tolist(),
        }

    def _consistency_numbers(self, frames: dict[str, np.ndarray]) -> dict | None:
        numbers: dict = {}
        if 'photometric' in frames:
            predicted, static = frames['photometric'], frames['photometric_static']
            changes = static > STILL  # NaN is not
            numbers |= {
                'frames': int(np.isfinite(predicted).sum()),
                'photometric': float(np.nanmean(predicted)),
                'photometric_static': float(np.nanmean(static)),
                'still_frames': int((static <= STILL).sum()),
            }
            if changes.any():
                numbers['explained_percent'] = 100 * float(
                    1 - predicted[changes].sum() / static[changes].sum()
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

    def _evaluate_trajectory(self, result: Evaluation) -> None:
        """Fill in the numbers and paths of the trajectory, and the position error of each frame."""
        stamps = np.array(sorted(self._poses), np.int64)
        poses = np.array([self._poses[s] for s in stamps.tolist()]).reshape(-1, 4, 4)
        result.estimate = poses[:, :3, 3]
        result.numbers['odometry'] = {
            'poses': len(poses),
            'length': path_length(poses[:, :3, 3]) if len(poses) else 0.0,
        }
        result.numbers['trajectory'] = None
        truth = self._truth.track.at(stamps.tolist(), self._truth.tolerance)
        result.poses = stamps, poses, truth
        if not len(self._truth.track) or not len(poses):
            return
        known = np.isfinite(truth).all(axis=(1, 2))
        if not known.any():
            (a, b), (c, d) = ((t[0] / 1e9, t[-1] / 1e9) for t in (self._truth.track.stamps, stamps))
            result.notes.append(
                f'the trajectory cannot be judged: no true pose within '
                f'{self._truth.tolerance / 1e9:.3g} s of an image; true poses are from {a:.3f} to '
                f'{b:.3f} s, those of images from {c:.3f} to {d:.3f} s'
            )
            return
        try:
            numbers = trajectory_table(poses[known], truth[known])
            aligned = pose_metrics(poses[known], truth[known], 'sim3').aligned
        except ValueError as error:
            result.notes.append(f'the trajectory cannot be judged: {error}')
            return
        result.numbers['trajectory'] = {
            'poses': int(numbers.pop('frames')),
            **numbers,
            'baselines': trajectory_baselines(truth[known], stamps[known] / 1e9),
        }
        result.aligned_poses = aligned
        if known.sum() < FEW_POSES:
            result.notes.append(
                f'the truth is known at {known.sum()} of {len(poses)} poses only: aligning fits so '
                'few by itself, so that the ATE says little'
            )
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


def _mean(sums: np.ndarray) -> dict[str, float]:
    """Return the mean metrics of sums over frames, whose last element is their number."""
    return DepthMetrics(*(sums[:-1] / sums[-1]).tolist())._asdict()


def _drift(stamps: np.ndarray, scales: np.ndarray) -> float | None:
    """Return percent per minute; None if the time is too short or stamps do not increase."""
    if not len(stamps) or stamps[-1] - stamps[0] < SHORTEST_DRIFT:
        return None
    try:
        return consistency.scale_drift(stamps, scales).drift
    except ValueError:
        return None


def camera_step(previous: np.ndarray, current: np.ndarray, extrinsic: np.ndarray) -> np.ndarray:
    """Return T_previous_current 4x4 of the camera.

    Args:
        previous, current: T_odom_base 4x4 at the two frames.
        extrinsic: T_base_camera 4x4.
    """
    return inverse(extrinsic) @ inverse(previous) @ current @ extrinsic
