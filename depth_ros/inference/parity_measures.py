"""How two engines' values of one output are compared, one class a kind of output.

``Output.compared`` (depth_ros/inference/outputs.py) chooses from :data:`MEASURES`. A measure takes
the values of A, the reference, and B of one image after the other; its memory does not grow. What
it finds has the numbers, and says which are out of bounds, in words and as rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from depth_ros.core.labels import UNLABELED
from depth_ros.core.metrics.semantics import confusion, semantics_table
from depth_ros.core.se3 import rotation_from_vector, vector_from_rotation
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError

# Relative errors are counted in bins, each 1 % wider than the one before; the first one holds all
# that are smaller.
_BINS = np.geomspace(1e-9, 1e3, 2778)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far B may be from A; errors hold for every frame, not only on average.

    Attributes:
        depth_error: mean relative error of a frame's depth, or of another map of numbers.
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


@dataclass(frozen=True)
class Check:
    """A number and the most that it may be.

    Attributes:
        name: what it is.
        value: the number.
        bound: its bound.
        unit: ``%`` for a share, else the unit's name.
    """

    name: str
    value: float
    bound: float
    unit: str = '%'

    @property
    def problem(self) -> str:
        """What is wrong with the number; empty if it is within its bound."""
        if self.value <= self.bound:
            return ''
        value, bound = (
            percent(number) if self.unit == '%' else f'{number:.3g} {self.unit}'
            for number in (self.value, self.bound)
        )
        return f'{self.name} up to {value}, at most {bound} is allowed'


Row = tuple[str, tuple[str, ...]]
"""A row of a table: what it shows, and its cells."""


class OutputParity(Protocol):
    """What a measure found for an output; a dataclass of numbers."""

    def checks(self, output: str, bounds: Bounds) -> list[Check]:
        """The numbers that have bounds."""
        ...

    def text(self, output: str) -> str:
        """The main numbers in words."""
        ...

    def rows(self, output: str) -> list[Row]:
        """All numbers as a table; a row without a name is a heading."""
        ...


class Measure(Protocol):
    """Compares an output of two engines over many images."""

    def __init__(self, contract: ModelContract) -> None: ...

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take the values of A and B for one more image, or pair of images.

        Raises:
            EngineError: if there is nothing to compare, as one of them is broken.
        """
        ...

    def result(self) -> OutputParity:
        """Sum up.

        Raises:
            EngineError: if there was nothing to compare in any image.
        """
        ...


def percent(share: float) -> str:
    """A share as text, in percent."""
    return f'{100 * share:.3g} %'


@dataclass(frozen=True, kw_only=True)
class DepthParity:
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

    def checks(self, output: str, bounds: Bounds) -> list[Check]:
        """Validity, error and change of scale."""
        return [
            Check(
                f'share of pixels with a {output} in one engine only',
                self.worst_invalid,
                bounds.invalid,
            ),
            Check(f'mean relative error of {output}', self.worst_mean, bounds.depth_error),
            Check('change of scale from frame to frame', self.scale_jump, bounds.depth_error),
        ]

    def text(self, output: str) -> str:
        """Errors in words."""
        return (
            f'{output} differs by {percent(self.mean)} on average, {percent(self.p95)} at the 95th '
            f'percentile, {percent(self.max)} at most'
        )

    def rows(self, output: str) -> list[Row]:
        """Errors, scale and validity."""
        title = output.capitalize()
        cells = (self.mean, self.median, self.p95, self.max, self.worst_mean)
        return [
            ('', ('mean', 'median', '95 %', 'max', 'worst frame')),
            (f'{title}, relative error', tuple(map(percent, cells))),
            (f'{title}, scale from frame to frame', (percent(self.scale_jump),)),
            (f'{title} in one engine only', ('', '', '', '', percent(self.worst_invalid))),
        ]


class DepthMeasure:
    """Relative errors of positive numbers, such as depth.

    Args:
        contract: the model's.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._affine_invariant = contract.affine_invariant
        self._histogram = np.zeros(len(_BINS) + 1, np.int64)
        # Of each frame: sum, number and largest of the errors, scale of b to a, share invalid.
        self._frames: list[tuple[float, int, float, float, float]] = []

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take two maps (H, W), in which what is not finite and positive is no value."""
        in_a, in_b = (np.isfinite(d) & (d > 0) for d in (a, b))
        both = in_a & in_b
        if not both.any():
            raise EngineError(
                'no pixel has a depth in both engines: one of them, or the model, is broken'
            )
        first, second = (d[both].astype(np.float64) for d in (a, b))
        if self._affine_invariant:
            # Only the inverse means something. It may be near 0, so not relative to itself.
            first, second = 1 / first, 1 / second
            errors = np.abs(second - first) / first.mean()
            scale = second.mean() / first.mean()
        else:
            ratio = second / first
            errors = np.abs(ratio - 1)
            scale = np.median(ratio)
        self._histogram += np.bincount(np.searchsorted(_BINS, errors), minlength=len(_BINS) + 1)
        self._frames.append(
            (
                float(errors.sum()),
                errors.size,
                float(errors.max()),
                float(scale),
                float((in_a != in_b).mean()),
            )
        )

    def result(self) -> DepthParity:
        """Sum up."""
        sums, counts, largest, scales, invalid = np.array(self._frames).T
        ranks = np.cumsum(self._histogram)
        median, p95 = (
            float(np.append(_BINS, largest.max())[np.searchsorted(ranks, share * ranks[-1])])
            for share in (0.5, 0.95)
        )
        return DepthParity(
            mean=float(sums.sum() / counts.sum()),
            median=median,
            p95=p95,
            max=float(largest.max()),
            worst_mean=float((sums / counts).max()),
            scale_jump=float(scales.max() / scales.min() - 1),
            worst_invalid=float(invalid.max()),
        )


@dataclass(frozen=True, kw_only=True)
class LabelParity:
    """Which pixels have the same class.

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

    def checks(self, output: str, bounds: Bounds) -> list[Check]:
        """The pixels of another class."""
        return [
            Check(
                'share of pixels of another class', 1 - self.worst_share, 1 - bounds.label_agreement
            )
        ]

    def text(self, output: str) -> str:
        """The pixels of another class, in words."""
        return (
            f'{percent(1 - self.share)} of the pixels have another class, mean IoU '
            f'{self.mean_iou:.4f}'
        )

    def rows(self, output: str) -> list[Row]:
        """Shares, and the classes that are not all the same."""
        shares = 1 - self.share, 1 - self.worst_share
        return [
            ('', ('mean', 'worst frame')),
            ('Pixels of another class', tuple(map(percent, shares))),
            ('Mean IoU of B against A', (f'{self.mean_iou:.4f}',)),
            *((f'  {name}', (f'{value:.4f}',)) for name, value in self.iou.items() if value < 1),
        ]


class LabelMeasure:
    """Equal class ids.

    Args:
        contract: the model's, which names the classes.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._names = [item.name for item in contract.classes]
        self._confusion = np.zeros((len(self._names), len(self._names) + 1), np.int64)
        self._shares: list[float] = []

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take two maps (H, W) of ids; one that is no class counts as unlabelled."""
        classes = len(self._names)
        a, b = (np.where(ids < classes, ids, UNLABELED) for ids in (a, b))
        self._confusion += confusion(b, a, classes)
        self._shares.append(float((a == b).mean()))

    def result(self) -> LabelParity:
        """Sum up."""
        if not self._confusion.any():
            raise EngineError('engine A gives no pixel a class: it, or the model, is broken')
        found = semantics_table(self._confusion, self._names)
        return LabelParity(
            share=float(np.mean(self._shares)),
            worst_share=min(self._shares),
            mean_iou=found['mean_iou'],
            iou=found['iou'],
        )


@dataclass(frozen=True, kw_only=True)
class MotionParity:
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

    def checks(self, output: str, bounds: Bounds) -> list[Check]:
        """Translation and rotation."""
        return [
            Check('error of translation', self.worst_relative, bounds.translation_error),
            Check('error of rotation', self.worst_rotation, bounds.rotation_error, 'deg'),
        ]

    def text(self, output: str) -> str:
        """Mean differences in words."""
        return (
            f'translation differs by {percent(self.relative)}, rotation by {self.rotation:.2g} deg'
        )

    def rows(self, output: str) -> list[Row]:
        """Translation and rotation."""
        return [
            ('', ('mean', 'worst frame')),
            ('Translation, error', (f'{self.translation:.3g}', f'{self.worst_translation:.3g}')),
            (
                'Translation, relative error',
                (percent(self.relative), percent(self.worst_relative)),
            ),
            ('Rotation, error, deg', (f'{self.rotation:.3g}', f'{self.worst_rotation:.3g}')),
        ]


class MotionMeasure:
    """Differences of motions.

    Args:
        contract: the model's.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._motions: list[tuple[float, float, float]] = []  # |t_a|, |t_b - t_a|, degrees

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take two motions (6,): rotation vector, translation."""
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

    def result(self) -> MotionParity:
        """Sum up."""
        lengths, errors, angles = np.array(self._motions).T
        length = max(float(lengths.mean()), float(np.finfo(np.float32).tiny))
        return MotionParity(
            translation=float(errors.mean()),
            worst_translation=float(errors.max()),
            relative=float(errors.mean()) / length,
            worst_relative=float(errors.max()) / length,
            rotation=float(angles.mean()),
            worst_rotation=float(angles.max()),
        )


@dataclass(frozen=True, kw_only=True)
class NumberParity:
    """Absolute errors |b - a| of numbers that may have any sign.

    Attributes:
        mean, max: over all frames.
        worst_relative: mean of a frame as a share of the frame's mean |a|, in the frame where it is
            largest.
    """

    mean: float
    max: float
    worst_relative: float

    def checks(self, output: str, bounds: Bounds) -> list[Check]:
        """The error of a frame."""
        return [Check(f'mean relative error of {output}', self.worst_relative, bounds.depth_error)]

    def text(self, output: str) -> str:
        """Errors in words."""
        return f'{output} differs by {self.mean:.3g} on average, {self.max:.3g} at most'

    def rows(self, output: str) -> list[Row]:
        """Errors, absolute and relative."""
        title = output.capitalize()
        return [
            ('', ('mean', 'max', 'worst frame')),
            (f'{title}, error', (f'{self.mean:.3g}', f'{self.max:.3g}')),
            (f'{title}, relative error', ('', '', percent(self.worst_relative))),
        ]


class NumberMeasure:
    """Absolute errors of numbers, such as of an output of a kind that is new.

    Args:
        contract: the model's.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._frames: list[tuple[float, float, float]] = []  # mean and largest error, mean |a|

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take two arrays of one shape; what is not finite is no value."""
        both = np.isfinite(a) & np.isfinite(b)
        if not both.any():
            raise EngineError('no number is finite in both engines: one of them is broken')
        first, second = (values[both].astype(np.float64) for values in (a, b))
        errors = np.abs(second - first)
        self._frames.append(
            (float(errors.mean()), float(errors.max()), float(np.abs(first).mean()))
        )

    def result(self) -> NumberParity:
        """Sum up."""
        means, largest, sizes = np.array(self._frames).T
        sizes = np.maximum(sizes, np.finfo(np.float32).tiny)
        return NumberParity(
            mean=float(means.mean()),
            max=float(largest.max()),
            worst_relative=float((means / sizes).max()),
        )


MEASURES: dict[str, type[Measure]] = {
    'ratio': DepthMeasure,
    'classes': LabelMeasure,
    'motion': MotionMeasure,
    'difference': NumberMeasure,
}
"""Measures by the kinds of ``Output.compared``."""
