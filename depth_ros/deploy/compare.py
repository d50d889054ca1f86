"""May one engine of a model stand in for another: `compare_engines A B --images RECORDING`.

A is the reference, such as the ONNX file on the CPU; B is the same model on another runtime or in
another precision. Both get the same images. Their outputs are compared with each other and, where
the recording has ground truth, each with the truth. Errors between the outputs must be within
bounds in every frame, changes of accuracy over all frames.

The exit status is 0 if B is accepted, 1 if it is refused, and 2 if they cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo
from tqdm import tqdm

from depth_ros.bags.ground_truth import GroundTruth, count_problem
from depth_ros.bags.messages import BagError, Message, header_stamp
from depth_ros.bags.reader import Bag
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.commands.options import count, positive
from depth_ros.core.camera import CameraError, ImageFit
from depth_ros.core.depth import depth_factor
from depth_ros.core.images import ImageError
from depth_ros.core.se3 import vector_from_rotation
from depth_ros.evaluation.frame_evaluator import Judge, Judgeable
from depth_ros.evaluation.offline import Picture, Runner, Settings, decoded
from depth_ros.files import check_writable, write_file
from depth_ros.inference.classes import KNOWN, ClassMap
from depth_ros.inference.contract import ContractError, ModelContract
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX
from depth_ros.inference.loader import BACKENDS, installed_backends, load_engine
from depth_ros.inference.parity import (
    DEPTH_ROWS,
    Agreement,
    Bounds,
    Comparison,
    accuracy_problems,
    check_contracts,
    in_range,
    percent,
)

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
"""Files of a folder that are images."""

_PERIOD = 10**8  # ns between two images of a folder, which have no times
_TRUTH = ('depth', 'semantics', 'trajectory')
_Pictures = Iterator[tuple[int, Picture | Exception, Any]]  # index, image, its CameraInfo


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to compare two engines on.

    Attributes:
        path: a recording, or a folder of images, which are taken in the order of their names.
        only: indices of those to use, from 0, ascending, at least one; `None` for all. Where they
            are not all in a row, a pose network gets the pairs of neighbours among them, and no
            trajectory is judged.
        topics: of a recording, what `find_streams` is given, by its argument's name.
        classes: what true class ids mean, see `ClassMap.read`.
    """

    path: Path
    only: Sequence[int] | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    classes: str | None = 'cityscapes'

    @property
    def end(self) -> int | None:
        """One more than the last index; `None` for all."""
        return None if self.only is None else self.only[-1] + 1

    @property
    def in_a_row(self) -> bool:
        """Whether there is no gap between them."""
        return self.only is None or len(self.only) == self.end - self.only[0]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What :func:`compare` found.

    Attributes:
        agreement: of the outputs with each other.
        accuracy: of A and of B against ground truth: `depth`, `semantics` and `trajectory` as in
            metrics.json of `evaluate_bag`, `None` for what has no truth.
        problems: why B may not stand in for A; empty if it may.
        notes: what could not be compared, and why.
    """

    agreement: Agreement
    accuracy: tuple[dict, dict]
    problems: list[str]
    notes: list[str]


def compare(
    a: Engine,
    b: Engine,
    images: Images,
    bounds: Bounds | None = None,
    bar: bool = True,
    check: Callable[[Picture], None] | None = None,
) -> Result:
    """Run two engines of one model on the same images, as the nodes would.

    Args:
        a: the reference.
        b: the one to judge.
        images: what to run them on; a pose network gets each with the one before.
        bounds: how far B may be from A.
        bar: whether to show progress.
        check: called with each image; may refuse it by an EngineError.

    Raises:
        EngineError: if they are not of one model, one fails, or there is nothing to compare.
        BagError, ValueError: if the images cannot be used.
    """
    check_contracts(a.contract, b.contract)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        number, pictures, recording = open_images(images, a.contract, stack, pool)
        judges: list[Judge] = []
        scattered = a.contract.task == 'pose' and not images.in_a_row
        if recording and not scattered:
            judges = _judges(images, *recording, a.contract, number, pool, stack)
        progress = stack.enter_context(
            tqdm(pictures, total=number, unit='image', disable=None if bar else True)
        )
        agreement, notes = _run((a, b), judges, progress, check)
        evaluations = [judge.finish()[0] for judge in judges]
    accuracy = tuple({name: e.numbers[name] for name in _TRUTH} for e in evaluations) or (
        dict.fromkeys(_TRUTH),
        dict.fromkeys(_TRUTH),
    )
    notes += evaluations[0].notes if evaluations else []
    if not any(accuracy[0].values()):
        why = 'no trajectory of scattered pairs' if scattered else 'no ground truth'
        notes.append(f'{why}: the engines are compared with each other only')
    return Result(
        agreement=agreement,
        accuracy=accuracy,
        notes=notes,
        problems=agreement.problems(bounds) + accuracy_problems(*accuracy, bounds),
    )


def _run(
    engines: tuple[Engine, Engine],
    judges: Sequence[Judge],
    pictures: _Pictures,
    check: Callable[[Picture], None] | None,
) -> tuple[Agreement, list[str]]:
    """Run both engines on all pictures; returns their agreement and what was left out."""
    comparison = Comparison(engines[0].contract)
    perception = comparison.contract.task == 'perception'
    skipped: dict[str, int] = {}
    missed: dict[str, int] = {}
    last: int | None = None
    for index, picture, info in pictures:
        if last is None or index != last + 1:  # there is no motion over a gap
            runners = [
                Runner(*((engine, None) if perception else (None, engine)), Settings())
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
            outputs = (_outputs(frame, comparison.contract) for frame in frames)
            comparison.add(*in_range(*outputs, comparison.contract))
        for judge, frame in zip(judges, frames, strict=False):
            judge.add(frame)
    notes = [f'{reason} ({n} times)' for reason, n in {**skipped, **missed}.items()]
    if not comparison.frames:
        what = 'image' if perception else 'pair of consecutive images'
        raise EngineError(
            f'there is no {what} to compare the engines on'
            f'{": " + "; ".join(notes) if notes else ""}'
        )
    return comparison.result(), notes


def _frame(name: str, runner: Runner, picture: Picture, info: Any) -> Judgeable:
    try:
        frame = runner(picture, info)
    except EngineError as error:
        raise EngineError(f'engine {name}: {error}') from error
    if runner.failure:
        raise EngineError(f'engine {name}: {runner.failure}')
    return frame


def _outputs(frame: Judgeable, contract: ModelContract) -> dict[str, np.ndarray | None]:
    """A frame as outputs of a network, depth not in metres of the camera but as the network says
    it."""
    step, depth = frame.step, frame.depth
    if depth is not None:
        fit = ImageFit.create(frame.view, contract.camera, 'stretch')
        depth = depth / np.float32(depth_factor(contract, fit.depth_factor, 0.0))
    return {
        'depth': depth,
        'labels': frame.labels,
        'pose': None
        if step is None
        else np.concatenate([vector_from_rotation(step[:3, :3]), step[:3, 3]]),
    }


def open_images(
    images: Images, contract: ModelContract, stack: ExitStack, pool: Executor
) -> tuple[int, _Pictures, tuple[Bag, Streams] | None]:
    """Open images until ``stack`` closes.

    Returns:
        How many are to be used; each with its index and CameraInfo; and the recording if they are
        of one.

    Raises:
        EngineError, BagError: if there are none, or they cannot be read.
    """
    total = count_images(images.path, images.topics)
    number = total if images.only is None else bisect_left(images.only, total)
    if _is_folder(images.path):
        return number, _from_folder(images, contract), None
    bag = stack.enter_context(Bag(images.path))
    streams = find_streams(bag, **images.topics)
    return number, _from_recording(bag, streams, images, pool), (bag, streams)


def count_images(path: Path, topics: Mapping[str, str]) -> int:
    """How many images a recording or a folder has.

    Args:
        path, topics: see :class:`Images`.

    Raises:
        EngineError, BagError: if there are none, or they cannot be read.
    """
    if _is_folder(path):
        return len(_files(path))
    with Bag(path) as bag:
        return bag.topics[find_streams(bag, **topics).image].count


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder and no recording, which has these files."""
    return path.is_dir() and not any(
        p.name == 'metadata.yaml' or p.suffix in ('.mcap', '.db3') for p in path.iterdir()
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise EngineError(
            f"folder '{folder}' has no image ({', '.join(SUFFIXES)}) and is no "
            'recording; give a folder of images, or a recording'
        )
    return files


def _from_folder(images: Images, contract: ModelContract) -> _Pictures:
    """Images of a folder, as if taken with the training camera."""
    model = contract.camera

    for index, path in enumerate(_files(images.path)[: images.end]):
        if images.only is not None and index not in images.only:
            continue
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            yield index, ImageError(f"'{path}' cannot be read as an image"), None
            continue
        height, width = image.shape[:2]
        camera = model.resized(width, height)
        matrix = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        yield (
            index,
            Picture(index * _PERIOD, 'camera', rgb),
            CameraInfo(width=width, height=height, k=matrix),
        )


def _from_recording(bag: Bag, streams: Streams, images: Images, pool: Executor) -> _Pictures:
    """Images of a recording, each with the latest camera_info before it; no other is decoded."""
    taken: deque[tuple[int, Any]] = deque()

    def messages() -> Iterator[Message]:
        info: Any = bag.first(streams.camera_info)
        latest: Message | None = None
        indices = count_from(0)
        for message in bag.messages([streams.image, streams.camera_info]):
            if message.topic == streams.camera_info:
                latest = message
                continue
            index = next(indices)
            if images.only is None or index in images.only:
                if latest is not None:
                    info, latest = bag.decode(latest), None
                taken.append((index, info))
                yield message
            if index + 1 == images.end:
                return

    for _, picture in decoded(messages(), pool):
        index, info = taken.popleft()
        yield index, picture, info


def _judges(
    images: Images,
    bag: Bag,
    streams: Streams,
    contract: ModelContract,
    number: int,
    pool: Executor,
    stack: ExitStack,
) -> list[Judge]:
    """One judge for each engine, none where the recording has no ground truth for the model."""
    has = {'depth': streams.depth, 'labels': streams.labels, 'pose': streams.odom}
    if not any(has[name] for name in contract.outputs):
        return []
    stamps = [header_stamp(m.data) for m in islice(bag.messages([streams.image]), images.end)]
    periods = np.diff(np.unique(stamps))
    tolerance = int(np.median(periods)) // 2 if len(periods) else _PERIOD // 2
    classes = ClassMap.read(images.classes, contract.classes) if contract.classes else None
    return [
        Judge(
            stack.enter_context(GroundTruth(images.path, streams, tolerance)),
            classes,
            contract.metric,
            number,
            pool,
            contract.affine_invariant,
        )
        for _ in range(2)
    ]


# The command --------------------------------------------------------------------------------------

_TRAJECTORY = {
    'ate_sim3': 'Position error after Sim(3), m',
    'rpe_rotation_deg': 'Rotation error of a step, deg',
}
_OPTIONS = {
    'depth_error': '--max-depth-error',
    'invalid': '--max-invalid',
    'label_agreement': '--min-label-agreement',
    'translation_error': '--max-translation-error',
    'rotation_error': '--max-rotation-error',
    'abs_rel_change': '--max-abs-rel-change',
    'mean_iou_change': '--max-iou-change',
}
_BOUNDS = {
    'depth_error': 'mean relative error of depth, and change of its scale, in any image',
    'invalid': 'share of pixels with a depth in one of both only, in any image',
    'label_agreement': 'least share of pixels of the same class in any image',
    'translation_error': 'error of any translation, as a share of the mean one',
    'rotation_error': 'error of any rotation, degrees',
    'abs_rel_change': 'relative change of Abs Rel against ground truth, where there is some',
    'mean_iou_change': 'change of mean IoU against ground truth; 0.01 is one point',
}


def add_bounds(parser: argparse._ArgumentGroup, options: Mapping[str, str]) -> None:
    """Add an option for each field of :class:`depth_ros.inference.parity.Bounds`."""
    for item in fields(Bounds):
        parser.add_argument(
            options[item.name],
            dest=item.name,
            type=positive,
            default=item.default,
            metavar='X',
            help=f'{_BOUNDS[item.name]} (%(default)g)',
        )


def given_bounds(arguments: argparse.Namespace) -> Bounds:
    """What the options of :func:`add_bounds` say."""
    return Bounds(**{item.name: getattr(arguments, item.name) for item in fields(Bounds)})


def table(result: Result) -> str:
    """The numbers as text for the terminal."""
    lines = [*_agreement_lines(result.agreement), *_accuracy_lines(*result.accuracy)]
    return '\n'.join([*lines, *(f'Note: {note}' for note in result.notes)])


def _agreement_lines(found: Agreement) -> list[str]:
    lines = []
    if depth := found.depth:
        cells = (depth.mean, depth.median, depth.p95, depth.max, depth.worst_mean)
        lines += [
            _line('', ('mean', 'median', '95 %', 'max', 'worst frame')),
            _line('Depth, relative error', map(percent, cells)),
            _line('Depth, scale from frame to frame', (percent(depth.scale_jump),)),
            _line('Depth in one engine only', ('', '', '', '', percent(depth.worst_invalid))),
        ]
    if labels := found.labels:
        lines += [
            _line('', ('mean', 'worst frame')),
            _line(
                'Pixels of another class', map(percent, (1 - labels.share, 1 - labels.worst_share))
            ),
            _line('Mean IoU of B against A', (f'{labels.mean_iou:.4f}',)),
        ]
        lines += [
            _line(f'  {name}', (f'{value:.4f}',)) for name, value in labels.iou.items() if value < 1
        ]
    if pose := found.pose:
        lines += [
            _line('', ('mean', 'worst frame')),
            _line(
                'Translation, error', (f'{pose.translation:.3g}', f'{pose.worst_translation:.3g}')
            ),
            _line(
                'Translation, relative error', map(percent, (pose.relative, pose.worst_relative))
            ),
            _line('Rotation, error, deg', (f'{pose.rotation:.3g}', f'{pose.worst_rotation:.3g}')),
        ]
    return lines


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


def _load(path: Path, backend: str, threads: int) -> Engine:
    """Load an engine; an ONNX file runs on the CPU, also where a TensorRT engine is beside it."""
    if backend == 'auto' and path.suffix != ENGINE_SUFFIX and installed_backends():
        backend = installed_backends()[0]
    return load_engine(path, backend, threads)


def _parser() -> argparse.ArgumentParser:
    summary, epilog = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        prog='compare_engines',
        description=summary.split(': ')[0] + '?',
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('a', type=Path, metavar='A', help='the reference, .onnx or .engine')
    parser.add_argument('b', type=Path, metavar='B', help='the engine to judge')
    parser.add_argument(
        '--images',
        type=Path,
        required=True,
        metavar='PATH',
        help='a recording, or a folder of images in the order of their names',
    )
    parser.add_argument('--frames', type=count, metavar='N', help='only the first N images')
    parser.add_argument(
        '--backend',
        choices=BACKENDS,
        nargs=2,
        default=('auto', 'auto'),
        metavar=('A', 'B'),
        help='runtimes of A and B: '
        + ', '.join(BACKENDS)
        + ' (default: auto, TensorRT for .engine, the CPU for .onnx)',
    )
    parser.add_argument('--threads', type=count, default=2, help='of an inference (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers, too')
    add_bounds(parser.add_argument_group('bounds of what is accepted'), _OPTIONS)
    truth = parser.add_argument_group(
        'topics of a recording', 'found by type and name if not given'
    )
    for option, key in (
        ('--image', 'image'),
        ('--camera-info', 'camera_info'),
        ('--depth-gt', 'depth'),
        ('--semantics-gt', 'labels'),
        ('--odom-gt', 'odom'),
    ):
        truth.add_argument(option, dest=f'topic_{key}', metavar='TOPIC')
    truth.add_argument(
        '--classes',
        default='cityscapes',
        metavar='SET',
        help=f'what true class ids mean: {", ".join(KNOWN)}, model, or a YAML file (%(default)s)',
    )
    return parser


def _compare(arguments: argparse.Namespace) -> int:
    given = vars(arguments)
    if arguments.json:
        check_writable(arguments.json)
    bounds = given_bounds(arguments)
    images = Images(
        path=arguments.images,
        only=arguments.frames and range(arguments.frames),
        topics={
            name.removeprefix('topic_'): value
            for name, value in given.items()
            if name.startswith('topic_') and value
        },
        classes=None if arguments.classes == 'model' else arguments.classes,
    )
    engines = []
    try:
        for path, backend in zip((arguments.a, arguments.b), arguments.backend, strict=True):
            engines.append(_load(path, backend, arguments.threads))
        result = compare(*engines, images, bounds)
    finally:
        for engine in engines:
            engine.close()
    about = [
        {'path': str(path), 'name': engine.contract.name, 'backend': engine.backend}
        for path, engine in zip((arguments.a, arguments.b), engines, strict=True)
    ]
    for name, engine in zip('AB', about, strict=True):
        print(f'{name}: {engine["path"]} ({engine["backend"]})')
    what = 'images' if engines[0].contract.task == 'perception' else 'pairs of images'
    print(f'{result.agreement.frames} {what} of {images.path}\n\n{table(result)}\n')
    print('B is refused: ' + '; '.join(result.problems) if result.problems else 'B is accepted')
    if arguments.json:
        found = {
            'a': about[0],
            'b': about[1],
            'images': str(images.path),
            'agreement': result.agreement.to_dict(),
            'accuracy': dict(zip('ab', result.accuracy, strict=True)),
            'bounds': asdict(bounds),
            'accepted': not result.problems,
            'problems': result.problems,
            'notes': result.notes,
        }
        write_file(arguments.json, json.dumps(found, indent=2, allow_nan=False) + '\n')
    return 1 if result.problems else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _compare(arguments)
    except (BagError, ContractError, EngineError, OSError, ValueError) as error:
        print(f'compare_engines: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('compare_engines: interrupted', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
