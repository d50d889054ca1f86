"""The numbers of an evaluation, as they are collected and as a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from depth_ros.core.metrics.baselines import CONSTANT, IN_METRES, BestConstant, one_class
from depth_ros.core.metrics.depth import ALIGNED, DepthMetrics, mean_depth_metrics
from depth_ros.core.metrics.semantics import semantics_table
from depth_ros.inference.classes import ClassMap
from train.data.sequences import DataError
from train.evaluation.frames import EvaluatedFrame
from train.evaluation.protocol import Protocol

TASKS = ('depth', 'semantics', 'odometry')


@dataclass
class SequenceScores:
    """What has been measured so far; see :meth:`report`.

    Attributes:
        tasks: what was asked for.
        depth: by frame, metrics by row of the table.
        baselines: by frame, the same of something trivial.
        constant: finds the one depth for all frames that is nearest to the truth.
        scales: by frame, the factor of median scaling, or of scale and shift.
        matrix: label confusion.
        trajectories: numbers by sequence.
        labelled: number of label images in it.
        snippets: metrics of each snippet by sequence.
        poses: by sequence: estimate, truth (N, 4, 4), both from their first camera, and times.
        left_out: by frame, what is wrong with a file of it.
        out_of_range: by frame, the share of the true depth that the model cannot say.
        notes: what was not evaluated, and why.
    """

    tasks: Sequence[str] = TASKS
    depth: dict[EvaluatedFrame, dict[str, DepthMetrics]] = field(default_factory=dict)
    scales: dict[EvaluatedFrame, float] = field(default_factory=dict)
    baselines: dict[EvaluatedFrame, dict[str, DepthMetrics]] = field(default_factory=dict)
    constant: BestConstant = field(default_factory=BestConstant)
    matrix: np.ndarray | None = None
    labelled: int = 0
    trajectories: dict[str, dict] = field(default_factory=dict)
    poses: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    snippets: dict[str, list] = field(default_factory=dict)
    left_out: dict[EvaluatedFrame, str] = field(default_factory=dict)
    out_of_range: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, protocol: Protocol, classes: ClassMap | None) -> dict:
        """The numbers as plain, JSON-ready data.

        Raises:
            DataError: if nothing was measured.
        """
        report: dict = {}
        if self.depth:
            rows, trivial = _means(self.depth.values()), _means(self.baselines.values())
            if (best := self.constant.errors()) is not None:
                trivial[CONSTANT + IN_METRES] = {**best[1]._asdict(), 'depth': best[0]}
            scales = np.array(list(self.scales.values()))
            report['depth'] = {
                'images': len(self.depth),
                'protocol': protocol._asdict(),
                'truth': sorted({frame.truth for frame in self.depth}),
                'scale_median': float(np.median(scales)),
                'scale_spread': float(np.std(scales / np.median(scales))),
                'metres': 'the model, with the ratio of the focal lengths',
                **rows,
                'baselines': trivial,
            }
        if self.matrix is not None and self.matrix.any():
            assert classes is not None  # the matrix counts them
            report['semantics'] = {
                'images': self.labelled,
                **semantics_table(self.matrix, [c.name for c in classes.classes]),
                'baselines': {'one_class': one_class(self.matrix)},
            }
        if self.trajectories:
            report['trajectories'] = self.trajectories
        found = {'depth': 'depth', 'semantics': 'semantics', 'trajectories': 'odometry'}
        missing = [t for t in self.tasks if t not in {found[k] for k in report}]
        if not report:
            raise DataError(
                '; '.join(
                    [
                        'the data has no depth/, structure.npz, semantics/ or poses.txt to '
                        'compare this model with',
                        *self.notes,
                    ]
                )
            )
        if missing:
            report['not_evaluated'] = missing
        if self.notes:
            report['notes'] = self.notes
        return report

    def pick(self, frames: Sequence[EvaluatedFrame], count: int) -> list[EvaluatedFrame]:
        """Frames to look at: half the worst by Abs Rel, the others evenly spread."""
        errors = {
            f: rows[name].abs_rel
            for f, rows in self.depth.items()
            for name in ALIGNED
            if name in rows
        }
        worst = sorted(errors, key=lambda f: -errors[f])[: count // 2]
        others = [
            f if f in self.depth else f._replace(depth=None)
            for f in frames
            if f not in worst and f not in self.left_out and (f in self.depth or f.labels)
        ]
        even = np.linspace(0, len(others) - 1, min(count - len(worst), len(others))).astype(int)
        return worst + [others[i] for i in even]


def _means(images: Iterable[Mapping[str, DepthMetrics]]) -> dict[str, dict[str, float]]:
    """Means over images of the metrics of each row."""
    rows = defaultdict(list)
    for metrics in images:
        for row, values in metrics.items():
            rows[row].append(values)
    return {row: mean_depth_metrics(values)._asdict() for row, values in rows.items()}
