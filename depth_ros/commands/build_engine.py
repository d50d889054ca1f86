"""Build a TensorRT engine from a model: `build_engine model.onnx [--precision fp16]`.

An engine fits the GPU and the TensorRT version that built it: build on the robot. Without a GPU,
--check lets NVIDIA's parser and builder (TensorRT-RTX) try the model on the CPU; that an engine can
be built says nothing about its speed or its numbers.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from depth_ros.commands.options import command_parser
from depth_ros.inference.engine import EngineError
from depth_ros.inference.engine_file import PRECISIONS, engine_output
from depth_ros.inference.runtimes.tensorrt import cuda_module, find_gpu
from depth_ros.packages import MissingPackageError, require_packages


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    stop = threading.Event()
    try:
        _run(arguments, stop)
    except (MissingPackageError, OSError, RuntimeError, ValueError) as error:
        print(f'build_engine: {error}', file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        print('build_engine: interrupted', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('build_engine', __doc__)
    parser.add_argument('model', type=Path, help='ONNX file with a depth_ros contract')
    parser.add_argument(
        '--precision',
        choices=(*PRECISIONS, 'int8'),
        default='fp32',
        help='fp16 halves the size; int8 needs --calibration, or a model of '
        'quantize --runtime tensorrt (default: %(default)s)',
    )
    parser.add_argument(
        '--calibration',
        type=Path,
        metavar='PATH',
        help='recording, or folder of '
        'images, of the camera, to find the scales of int8 with and to judge it; '
        'of several cameras, quantize takes one',
    )
    parser.add_argument(
        '--output',
        type=Path,
        help='engine file (default: MODEL.engine beside the '
        'model, or in ~/.ros/depth_ros if that folder cannot be written; the nodes '
        'find both)',
    )
    parser.add_argument(
        '--check', action='store_true', help='only try, without a GPU; writes nothing'
    )
    return parser


def _run(arguments: argparse.Namespace, stop: threading.Event) -> None:
    require_packages('build_engine', 'onnx')
    from depth_ros.deploy.build import (
        build,
        check_output,
        check_without_gpu,
        load_model,
        stop_on_interrupt,
    )

    source, precision, calibration = arguments.model, arguments.precision, arguments.calibration
    output = arguments.output or engine_output(source)
    if calibration and precision != 'int8':
        raise EngineError('--calibration is for --precision int8')
    if calibration and not arguments.check:  # before the images are gone through
        check_output(output)
        find_gpu(cuda_module())
    model = load_model(source, precision, calibration)
    with stop_on_interrupt(stop):
        if arguments.check:
            version, size = check_without_gpu(model, stop)
            print(
                f'{source} ({precision}): read and built by TensorRT-RTX {version}, '
                f'{size / 1e6:.1f} MB'
            )
        else:
            build(source, output, precision, stop, calibration=calibration, model=model)
            print(f'wrote {output} ({output.stat().st_size / 1e6:.1f} MB, {precision})')


if __name__ == '__main__':
    sys.exit(main())
