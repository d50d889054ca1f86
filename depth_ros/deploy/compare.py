"""May one engine of a model stand in for another?

Both run on the same images. Their outputs are compared with each other and, if the recording has
ground truth, each with the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from depth_ros.bags.ground_truth import GroundTruth, count_problem, half_period
from depth_ros.bags.messages import header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams
from depth_ros.core.camera import CameraError, ImageFit
from depth_ros.core.depth import depth_factor
from depth_ros.core.images import ImageError
from depth_ros.core.se3 import vector_from_rotation
from depth_ros.deploy.image_source import FOLDER_PERIOD, Images, open_images
from depth_ros.evaluation.frame_evaluator import FrameEvaluator
from depth_ros.evaluation.frame_scores import FrameOutputs
from depth_ros.evaluation.runner import RecordedImage, Runner, Settings
from depth_ros.inference.classes import ClassMap
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.parity import (
    DEPTH_ROWS,
    Parity,
    ParityMeter,
    accuracy_problems,
    check_contracts,
    in_range,
)
from depth_ros.inference.parity_measures import Bounds

_TRUTH = ('depth', 'semantics', 'trajectory')
_TRAJECTORY = {
    'ate_sim3': 'Position error after Sim(3), m',
    'rpe_rotation_deg': 'Rotation error of a step, deg',
}


@dataclass(frozen=True, kw_only=True)
class EngineComparison:
    """What :func:`compare` found.

    Attributes:
        parity: how close the outputs are to each other.
        accuracy: of A and of B against ground truth: `depth`, `semantics` and `trajectory` as in
            metrics.json of `evaluate_bag`, `None` for what has no truth.
        problems: why B may not stand in for A; empty if it may.
        notes: what could not be compared, and why.
    """

    parity: Parity
    accuracy: tuple[dict[str, Any], dict[str, Any]]
    problems: list[str]
    notes: list[str]

    def table(self) -> str:
        """The numbers as text for the terminal."""
        lines = [_line(name, cells) for name, cells in self.parity.rows()]
        lines += _accuracy_lines(*self.accuracy)
        return '\n'.join([*lines, *(f'Note: {note}' for note in self.notes)])


def compare(
    a: Engine,
    b: Engine,
    images: Images,
    bounds: Bounds | None = None,
    bar: bool = True,
    check: Callable[[RecordedImage], None] | None = None,
) -> EngineComparison:
    """Run two engines of one model on the same images, as the nodes would.

    Args:
        a: the reference.
        b: the one to judge.
        images: what to run them on; a pose network gets each with the one before.
        bounds: how far B may be from A.
        bar: whether to show progress.
        check: called with each image; raises EngineError to refuse it.

    Raises:
        EngineError: if they are not of one model, one fails, or there is nothing to compare.
        BagError, ValueError: if the images cannot be used.
    """
    check_contracts(a.contract, b.contract)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        number, pictures, recording = open_images(images, a.contract, stack, pool)
        evaluators: list[FrameEvaluator] = []
        scattered = a.contract.task == 'pose' and not images.in_a_row
        if recording and not scattered:
            evaluators = _frame_evaluators(images, *recording, a.contract, number, pool, stack)
        progress = stack.enter_context(
            tqdm(pictures, total=number, unit='image', disable=None if bar else True)
        )
        parity, notes = _run((a, b), evaluators, progress, check)
        evaluations = [evaluator.finish()[0] for evaluator in evaluators]
    first: dict[str, Any] = dict.fromkeys(_TRUTH)
    second: dict[str, Any] = dict.fromkeys(_TRUTH)
    if evaluations:
        first, second = ({name: e.numbers[name] for name in _TRUTH} for e in evaluations)
        notes += evaluations[0].notes
    if not any(first.values()):
        why = 'no trajectory of scattered pairs' if scattered else 'no ground truth'
        notes.append(f'{why}: the engines are compared with each other only')
    return EngineComparison(
        parity=parity,
        accuracy=(first, second),
        notes=notes,
        problems=parity.problems(bounds) + accuracy_problems(first, second, bounds),
    )


def _run(
    engines: tuple[Engine, Engine],
    evaluators: Sequence[FrameEvaluator],
    pictures: Iterable[tuple[int, RecordedImage | Exception, Any]],
    check: Callable[[RecordedImage], None] | None,
) -> tuple[Parity, list[str]]:
    """Run both engines on all pictures; returns their parity, and what was left out and why."""
    contract = engines[0].contract
    perception = contract.task == 'perception'
    meter = ParityMeter(contract)
    skipped: dict[str, int] = {}
    missed: dict[str, int] = {}
    last: int | None = None
    for index, picture, info in pictures:
        if last is None or index != last + 1:  # there is no motion over a gap
            runners = [
                Runner(
                    *((engine, None) if perception else (None, engine)), Settings(refinement='none')
                )
                for engine in engines
            ]
            runners[0].missed = missed
        last = index
        try:
            if isinstance(picture, Exception):
                raise picture
            if check:
                check(picture)
            frames = [
                _frame(name, runner, picture, info)
                for name, runner in zip('AB', runners, strict=True)
            ]
        except (ImageError, CameraError) as error:
            count_problem(skipped, str(error))
            continue
        # The first image of a pair has no motion.
        if perception or frames[0].step is not None:
            a, b = (_outputs(frame, contract) for frame in frames)
            meter.add(*in_range(a, b, contract))
        for evaluator, frame in zip(evaluators, frames, strict=False):
            evaluator.add(frame)
    notes = [f'{reason} ({n} times)' for reason, n in {**skipped, **missed}.items()]
    if not meter.frames:
        what = 'image' if perception else 'pair of consecutive images'
        raise EngineError(
            f'there is no {what} to compare the engines on'
            f'{": " + "; ".join(notes) if notes else ""}'
        )
    return meter.result(), notes


def _frame(name: str, runner: Runner, picture: RecordedImage, info: Any) -> FrameOutputs:
    try:
        frame = runner(picture, info)
    except EngineError as error:
        raise EngineError(f'engine {name}: {error}') from error
    if runner.failure:
        raise EngineError(f'engine {name}: {runner.failure}')
    return frame


def _outputs(frame: FrameOutputs, contract: ModelContract) -> dict[str, np.ndarray]:
    """A frame as the outputs of a network.

    Depth is what the network gives, not metres of the frame's camera.
    """
    found: dict[str, np.ndarray] = dict(frame.others)
    if frame.depth is not None:
        fit = ImageFit.create(frame.view, contract.camera, 'stretch')
        found['depth'] = frame.depth / np.float32(depth_factor(contract, fit.depth_factor, 0.0))
    if frame.labels is not None:
        found['labels'] = frame.labels
    if frame.step is not None:
        found['pose'] = np.concatenate(
            [vector_from_rotation(frame.step[:3, :3]), frame.step[:3, 3]]
        )
    return found


def _frame_evaluators(
    images: Images,
    bag: Bag,
    streams: Streams,
    contract: ModelContract,
    number: int,
    pool: Executor,
    stack: ExitStack,
) -> list[FrameEvaluator]:
    """One evaluator for each engine, none where the recording has no ground truth for the model."""
    has = {'depth': streams.depth, 'labels': streams.labels, 'pose': streams.odom}
    if not any(has[name] for name in contract.outputs):
        return []
    stamps = [header_stamp(m.data) for m in islice(bag.messages([streams.image]), images.end)]
    tolerance = half_period(stamps, default=FOLDER_PERIOD // 2)
    classes = ClassMap.read(images.classes, contract.classes) if contract.classes else None
    return [
        FrameEvaluator(
            stack.enter_context(GroundTruth(images.path, streams, tolerance)),
            classes,
            contract.metric,
            number,
            pool,
            contract.affine_invariant,
        )
        for _ in range(2)
    ]


def _accuracy_lines(a: Mapping, b: Mapping) -> list[str]:
    rows: list[tuple[str, float, float, bool]] = []  # name, A, B, whether to compare shares
    if a['depth'] and b['depth']:
        for row, name in DEPTH_ROWS.items():
            if row in a['depth']['rows']:
                first, second = (x['depth']['rows'][row] for x in (a, b))
                rows += [
                    (f'{title} {name}', first[key], second[key], key != 'a1')
                    for key, title in (
                        ('abs_rel', 'Abs Rel'),
                        ('rmse', 'RMSE, m,'),
                        ('a1', 'delta < 1.25'),
                    )
                ]
    if a['semantics'] and b['semantics']:
        rows += [
            (name, a['semantics'][key], b['semantics'][key], False)
            for key, name in (
                ('mean_iou', 'Mean IoU'),
                ('pixel_accuracy', 'Pixels of the true class'),
            )
        ]
    if a['trajectory'] and b['trajectory']:
        rows += [
            (name, a['trajectory'][key], b['trajectory'][key], True)
            for key, name in _TRAJECTORY.items()
        ]
    if not rows:
        return []
    lines = [_line('Against ground truth', ('A', 'B', 'change'))]
    for name, first, second, relative in rows:
        change = (
            f'{100 * (second / first - 1):+.2f} %'
            if relative and first
            else (f'{second - first:+.4f}')
        )
        lines.append(_line(name, (f'{first:.4f}', f'{second:.4f}', change)))
    return lines


def _line(name: str, cells: Any) -> str:
    return f'{name:36}' + ''.join(f'{cell:>12}' for cell in cells)
