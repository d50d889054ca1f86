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
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from depth_ros.bags.messages import BagError
from depth_ros.commands.options import add_bounds, command_parser, count, given_bounds
from depth_ros.deploy.image_source import Images
from depth_ros.files import check_writable, write_file
from depth_ros.inference.classes import KNOWN
from depth_ros.inference.engine import Engine, EngineError
from depth_ros.inference.engine_file import ENGINE_SUFFIX
from depth_ros.inference.loader import BACKENDS, installed_backends, load_engine
from depth_ros.packages import MissingPackageError, require_packages

_OPTIONS = {
    'depth_error': '--max-depth-error',
    'invalid': '--max-invalid',
    'label_agreement': '--min-label-agreement',
    'translation_error': '--max-translation-error',
    'rotation_error': '--max-rotation-error',
    'abs_rel_change': '--max-abs-rel-change',
    'mean_iou_change': '--max-iou-change',
}


def _load(path: Path, backend: str, threads: int) -> Engine:
    """Load an engine; an ONNX file runs on the CPU, also where a TensorRT engine is beside it."""
    if backend == 'auto' and path.suffix != ENGINE_SUFFIX and installed_backends():
        backend = installed_backends()[0]
    return load_engine(path, backend, threads)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('compare_engines', __doc__, '?')
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
    require_packages('compare_engines', 'onnx', 'tqdm')
    from depth_ros.deploy.compare import compare

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
    first, second = arguments.backend
    with (
        closing(_load(arguments.a, first, arguments.threads)) as a,
        closing(_load(arguments.b, second, arguments.threads)) as b,
    ):
        result = compare(a, b, images, bounds)
    about = [
        {'path': str(engine.path), 'name': engine.contract.name, 'backend': engine.backend}
        for engine in (a, b)
    ]
    for name, engine in zip('AB', about, strict=True):
        print(f'{name}: {engine["path"]} ({engine["backend"]})')
    what = 'images' if a.contract.task == 'perception' else 'pairs of images'
    print(f'{result.parity.frames} {what} of {images.path}\n\n{result.table()}\n')
    print('B is refused: ' + '; '.join(result.problems) if result.problems else 'B is accepted')
    if arguments.json:
        found = {
            'a': about[0],
            'b': about[1],
            'images': str(images.path),
            'parity': result.parity.to_dict(),
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
    except (BagError, EngineError, MissingPackageError, OSError, ValueError) as error:
        print(f'compare_engines: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('compare_engines: interrupted', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
