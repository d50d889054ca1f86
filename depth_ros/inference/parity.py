"""Whether two engines of one model agree, in numbers.

Plain arrays in, numbers out: what one engine (A, the reference) and another one (B, of another
runtime or precision) give for the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from depth_ros.core.labels import UNLABELED
from depth_ros.core.metrics.semantics import confusion, semantics_table
from depth_ros.core.se3 import rotation_from_vector, vector_from_rotation
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError

# Relative errors of depth are counted in bins, each 1 % wider than the one before; the first one
# holds all that is smaller.
_BINS = np.geomspace(1e-9, 1e3, 2778)

DEPTH_ROWS = {
    'median_scaled': 'after median scaling',
    'as_published': 'as published',
    'scaled_and_shifted': 'after fitting scale, shift',
}
"""Rows of an evaluation's depth whose Abs Rel must not change, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far B may be from A; errors hold for every frame, not only on average.

    Attributes:
        depth_error: mean relative error of a frame's depth.
        invalid: share of a frame's pixels that have a depth in A or B only.
        label_agreement: least share of a frame's pixels of the same class.
        translation_error: error of a translation, as a share of the mean translation.
        rotation_error: error of a rotation, degrees.
        abs_rel_change: change of Abs Rel against ground truth, as a share of A's.
        mean_iou_change: change of mean IoU against ground truth; 0.01 is one point.
    """

    depth_error: float = 0.05
    invalid: float = 0.001
    label_agreement: float = 0.95
    translation_error: float = 0.05
    rotation_error: float = 0.1
    abs_rel_change: float = 0.01
    mean_iou_change: float = 0.01


@dataclass(frozen=True, kw_only=True)
class DepthAgreement:
    """Relative errors |b - a| / a of depth, over the pixels of all frames with both.

    Of an affine-invariant model, those of inverse depth: |1/b - 1/a| over the mean of 1/a.

    Attributes:
        mean, median, p95, max: of all pixels; median and 95th percentile to 1 % of themselves.
        worst_mean: mean of the frame where it is largest.
        scale_jump: by what share the scale of b to a, the median of b / a, differs between two
            frames, at most. Affine-invariant: the ratio of the means of 1/b and 1/a.
        worst_invalid: share of pixels that have a depth in A or B only, in the frame where it is
            largest. A depth is a finite number above 0.
    """

    mean: float
    median: float
    p95: float
    max: float
    worst_mean: float
    scale_jump: float
    worst_invalid: float


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """Agreement of classes.

    Attributes:
        share: of all pixels, those of the same class.
        worst_share: the same in the frame where it is smallest.
        mean_iou: over the classes that A finds.
        iou: intersection over union of each of them, by name.
    """

    share: float
    worst_share: float
    mean_iou: float
    iou: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PoseAgreement:
    """Differences of motions between two images.

    Attributes:
        translation, worst_translation: mean and largest |t_b - t_a|, in the model's unit.
        relative, worst_relative: the same as shares of the mean |t_a|.
        rotation, worst_rotation: mean and largest angle between the rotations, degrees.
    """

    translation: float
    worst_translation: float
    relative: float
    worst_relative: float
    rotation: float
    worst_rotation: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two engines agree; `None` for what the model does not give.

    Attributes:
        frames: images, or pairs of images for a pose network.
    """

    frames: int
    depth: DepthAgreement | None = None
    labels: LabelAgreement | None = None
    pose: PoseAgreement | None = None

    def problems(self, bounds: Bounds | None = None) -> list[str]:
        """What is out of bounds, a line each; empty if B may stand in for A."""
        bounds = bounds or Bounds()
        checks: list[tuple[str, float, float, str]] = []
        if depth := self.depth:
            checks += [
                (
                    'share of pixels with a depth in one engine only',
                    depth.worst_invalid,
                    bounds.invalid,
                    '%',
                ),
                ('mean relative error of depth', depth.worst_mean, bounds.depth_error, '%'),
                ('change of scale from frame to frame', depth.scale_jump, bounds.depth_error, '%'),
            ]
        if labels := self.labels:
            checks += [
                (
                    'share of pixels of another class',
                    1 - labels.worst_share,
                    1 - bounds.label_agreement,
                    '%',
                )
            ]
        if pose := self.pose:
            checks += [
                ('error of translation', pose.worst_relative, bounds.translation_error, '%'),
                ('error of rotation', pose.worst_rotation, bounds.rotation_error, 'deg'),
            ]
        return [
            f'{name} up to {_with_unit(value, unit)}, at most {_with_unit(bound, unit)} is allowed'
            for name, value, bound, unit in checks
            if value > bound
        ]

    def text(self) -> str:
        """The numbers on one line."""
        parts = []
        if depth := self.depth:
            parts.append(
                f'depth differs by {percent(depth.mean)} on average, '
                f'{percent(depth.p95)} at the 95th percentile, {percent(depth.max)} at '
                'most'
            )
        if labels := self.labels:
            parts.append(
                f'{percent(1 - labels.share)} of the pixels have another class, mean IoU '
                f'{labels.mean_iou:.4f}'
            )
        if pose := self.pose:
            parts.append(
                f'translation differs by {percent(pose.relative)}, rotation by '
                f'{pose.rotation:.2g} deg'
            )
        return '; '.join(parts)

    def to_dict(self) -> dict:
        """The numbers, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Comparison:
    """Compares the outputs of two engines image by image; memory does not grow.

    Args:
        contract: the model's.
    """

    contract: ModelContract
    frames: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._histogram = np.zeros(len(_BINS) + 1, np.int64)
        # Of each frame: sum, number and largest of the errors, scale of b to a, share invalid.
        self._depth: list[tuple[float, int, float, float, float]] = []
        classes = len(self.contract.classes)
        self._confusion = np.zeros((classes, classes + 1), np.int64)
        self._shares: list[float] = []
        self._motions: list[tuple[float, float, float]] = []  # |t_a|, |t_b - t_a|, degrees

    def add(self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
        """Take the outputs for one more image, or pair of images.

        Raises:
            EngineError: if A has no depth anywhere or an output is no number, so that there is
                nothing to compare.
        """
        for name in self.contract.outputs:
            {'depth': self._add_depth, 'labels': self._add_labels, 'pose': self._add_pose}[name](
                a[name], b[name]
            )
        self.frames += 1

    def _add_depth(self, a: np.ndarray, b: np.ndarray) -> None:
        in_a, in_b = (np.isfinite(d) & (d > 0) for d in (a, b))
        both = in_a & in_b
        if not both.any():
            raise EngineError(
                'no pixel has a depth in both engines: one of them, or the model, is broken'
            )
        first, second = (d[both].astype(np.float64) for d in (a, b))
        if self.contract.affine_invariant:
            # Only the inverse means something, and near 0, far away, not by its ratio.
            first, second = 1 / first, 1 / second
            errors = np.abs(second - first) / first.mean()
            scale = second.mean() / first.mean()
        else:
            ratio = second / first
            errors = np.abs(ratio - 1)
            scale = np.median(ratio)
        self._histogram += np.bincount(np.searchsorted(_BINS, errors), minlength=len(_BINS) + 1)
        self._depth.append(
            (
                float(errors.sum()),
                errors.size,
                float(errors.max()),
                float(scale),
                float((in_a != in_b).mean()),
            )
        )

    def _add_labels(self, a: np.ndarray, b: np.ndarray) -> None:
        classes = len(self.contract.classes)
        # An id that is no class is as good as none.
        a, b = (np.where(ids < classes, ids, UNLABELED) for ids in (a, b))
        self._confusion += confusion(b, a, classes)
        self._shares.append(float((a == b).mean()))

    def _add_pose(self, a: np.ndarray, b: np.ndarray) -> None:
        a, b = a.astype(np.float64), b.astype(np.float64)
        for name, motion in (('A', a), ('B', b)):
            if not np.isfinite(motion).all():
                raise EngineError(
                    f'engine {name} gives the pose {motion.tolist()}: it, or the model, is broken'
                )
        turn = rotation_from_vector(a[:3]).T @ rotation_from_vector(b[:3])
        self._motions.append(
            (
                float(np.linalg.norm(a[3:])),
                float(np.linalg.norm(b[3:] - a[3:])),
                float(np.degrees(np.linalg.norm(vector_from_rotation(turn)))),
            )
        )

    def result(self) -> Agreement:
        """Sum up.

        Raises:
            EngineError: if there was no image, or A found no class in any.
        """
        if not self.frames:
            raise EngineError('there is no image to compare the engines on')
        return Agreement(
            frames=self.frames,
            depth=self._depth_result(),
            labels=self._label_result(),
            pose=self._pose_result(),
        )

    def _depth_result(self) -> DepthAgreement | None:
        if not self._depth:
            return None
        sums, counts, largest, scales, invalid = np.array(self._depth).T
        ranks = np.cumsum(self._histogram)
        median, p95 = (
            float(np.append(_BINS, largest.max())[np.searchsorted(ranks, share * ranks[-1])])
            for share in (0.5, 0.95)
        )
        return DepthAgreement(
            mean=float(sums.sum() / counts.sum()),
            median=median,
            p95=p95,
            max=float(largest.max()),
            worst_mean=float((sums / counts).max()),
            scale_jump=float(scales.max() / scales.min() - 1),
            worst_invalid=float(invalid.max()),
        )

    def _label_result(self) -> LabelAgreement | None:
        if not self._shares:
            return None
        if not self._confusion.any():
            raise EngineError('engine A gives no pixel a class: it, or the model, is broken')
        found = semantics_table(self._confusion, [c.name for c in self.contract.classes])
        return LabelAgreement(
            share=float(np.mean(self._shares)),
            worst_share=min(self._shares),
            mean_iou=found['mean_iou'],
            iou=found['iou'],
        )

    def _pose_result(self) -> PoseAgreement | None:
        if not self._motions:
            return None
        lengths, errors, angles = np.array(self._motions).T
        length = max(float(lengths.mean()), np.finfo(np.float32).tiny)
        return PoseAgreement(
            translation=float(errors.mean()),
            worst_translation=float(errors.max()),
            relative=float(errors.mean()) / length,
            worst_relative=float(errors.max()) / length,
            rotation=float(angles.mean()),
            worst_rotation=float(angles.max()),
        )


def in_range(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], contract: ModelContract
) -> tuple[Mapping[str, np.ndarray], ...]:
    """Outputs of two engines for the same image, with depth in the model's range.

    Outside of it nodes publish none, and numbers may be of any size and precision. So depth is
    clipped, and NaN where it is outside in both; but where all of it is, it is the farthest, as
    both agree that there is nothing.
    """
    if 'depth' not in contract.outputs:
        return a, b
    depths = a['depth'], b['depth']
    clipped = [np.clip(depth, *contract.depth_range) for depth in depths]
    # What is no number is clipped to none, which differs from itself.
    outside = np.logical_and(*(x != y for x, y in zip(depths, clipped, strict=True)))
    for depth in clipped:
        depth[outside] = contract.depth_range[1] if outside.all() else np.nan
    return tuple(
        {**outputs, 'depth': depth} for outputs, depth in zip((a, b), clipped, strict=True)
    )


def accuracy_problems(a: Mapping, b: Mapping, bounds: Bounds | None = None) -> list[str]:
    """Which changes of accuracy are out of bounds, a line each; empty if none is.

    Args:
        a, b: `depth` and `semantics` as in metrics.json of `evaluate_bag`; `None` without truth.
        bounds: the limits, which a change must stay below.
    """
    bounds = bounds or Bounds()
    problems = []
    for row, name in DEPTH_ROWS.items():
        if a['depth'] and row in a['depth']['rows']:
            first, second = (x['depth']['rows'][row]['abs_rel'] for x in (a, b))
            if not abs(second / first - 1) < bounds.abs_rel_change:
                problems.append(
                    f'Abs Rel {name} changes from {first:.4f} to {second:.4f}, less than '
                    f'{percent(bounds.abs_rel_change)} of it is allowed'
                )
    if a['semantics']:
        first, second = (x['semantics']['mean_iou'] for x in (a, b))
        if not abs(second - first) < bounds.mean_iou_change:
            problems.append(
                f'mean IoU changes from {first:.4f} to {second:.4f}, less than '
                f'{bounds.mean_iou_change:g} is allowed'
            )
    return problems


def check_contracts(a: ModelContract, b: ModelContract) -> None:
    """Check that two engines are of the same model, so that their outputs mean the same.

    Only the size of the images may differ that each takes and resizes to the network's.

    Raises:
        EngineError: naming what differs.
    """
    for name in (
        'task',
        'input_width',
        'input_height',
        'intrinsics',
        'outputs',
        'depth_range',
        'metric',
        'affine_invariant',
        'classes',
    ):
        first, second = getattr(a, name), getattr(b, name)
        if name == 'outputs':
            first, second = sorted(first), sorted(second)
        if first != second:
            raise EngineError(
                f"these are not engines of one model: '{name}' of '{a.name}' is {first}, of "
                f"'{b.name}' {second}; give the engine and the model that it was built from"
            )


def percent(share: float) -> str:
    """A share as text, in percent."""
    return f'{100 * share:.3g} %'


def _with_unit(value: float, unit: str) -> str:
    return percent(value) if unit == '%' else f'{value:.3g} {unit}'
