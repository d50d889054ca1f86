"""Whether two engines of one model give the same, in numbers.

Plain arrays in, numbers out: what one engine (A, the reference) and another one (B, of another
runtime or precision) give for the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError
from depth_ros.inference.outputs import OUTPUTS
from depth_ros.inference.parity_measures import MEASURES, Bounds, OutputParity, Row, percent

DEPTH_ROWS = {
    'median_scaled': 'after median scaling',
    'as_published': 'as published',
    'scaled_and_shifted': 'after fitting scale, shift',
}
"""Rows of an evaluation's depth whose Abs Rel must not change, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How close two engines are.

    Attributes:
        frames: images, or pairs of images for a pose network.
        outputs: what was found for each output, by name.
    """

    frames: int
    outputs: Mapping[str, OutputParity]

    def problems(self, bounds: Bounds | None = None) -> list[str]:
        """What is out of bounds, a line each; empty if B may stand in for A."""
        checks = [
            check
            for name, found in self.outputs.items()
            for check in found.checks(name, bounds or Bounds())
        ]
        return [check.problem for check in checks if check.problem]

    def text(self) -> str:
        """The main numbers on one line."""
        return '; '.join(found.text(name) for name, found in self.outputs.items())

    def rows(self) -> list[Row]:
        """All numbers as rows of a table."""
        return [row for name, found in self.outputs.items() for row in found.rows(name)]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        found: dict[str, Any] = asdict(self)
        return {'frames': found['frames'], **found['outputs']}


class ParityMeter:
    """Compares the outputs of two engines image by image; its memory does not grow.

    Args:
        contract: the model's.

    Attributes:
        frames: number of images, or pairs of images, so far.
    """

    def __init__(self, contract: ModelContract) -> None:
        self.frames = 0
        self._measures = {
            name: MEASURES[OUTPUTS[name].compared](contract) for name in contract.outputs
        }

    def add(self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
        """Take the outputs for one more image, or pair of images.

        Raises:
            EngineError: if A has no depth anywhere or an output is no number, so that there is
                nothing to compare.
        """
        for name, measure in self._measures.items():
            measure.add(a[name], b[name])
        self.frames += 1

    def result(self) -> Parity:
        """Sum up.

        Raises:
            EngineError: if there was no image, or A found no class in any.
        """
        if not self.frames:
            raise EngineError('there is no image to compare the engines on')
        return Parity(
            frames=self.frames,
            outputs={name: measure.result() for name, measure in self._measures.items()},
        )


def in_range(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], contract: ModelContract
) -> tuple[Mapping[str, np.ndarray], ...]:
    """Outputs of two engines for the same image, with depth in the model's range.

    Nodes publish no depth outside of it, where numbers may be of any size and precision. So depth
    is clipped, and becomes NaN where it is outside of the range in both engines. If that is
    everywhere, it becomes the farthest depth instead: both engines agree that there is nothing.
    """
    if contract.depth_range is None:
        return a, b
    depths = a['depth'], b['depth']
    clipped = [np.clip(depth, *contract.depth_range) for depth in depths]
    # NaN stays NaN when clipped, and differs from itself.
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
        EngineError: if they differ; the message says how.
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
