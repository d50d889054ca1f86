"""Quantise a network to int8: `quantize model.onnx --calibration RECORDING`.

The result is an ONNX file with the same contract, which nodes and evaluation use like any other,
and `build_engine` if it is for TensorRT. It is written only if it is as good as the original on
images that were not used to calibrate it: see the bounds below. Without --validation, images from
all over the recording (or folder), a third of them at most, are kept for that, and others between
them calibrate.

Runtimes want their graphs differently: a file for OpenVINO gains nothing in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from depth_ros.bags.messages import BagError
from depth_ros.commands.options import add_bounds, command_parser, count, given_bounds
from depth_ros.deploy.image_source import CALIBRATION_IMAGES, HELD_OUT_IMAGES
from depth_ros.files import check_writable, write_file
from depth_ros.inference.engine import EngineError
from depth_ros.inference.loader import installed_backends
from depth_ros.inference.parity_measures import Bounds
from depth_ros.packages import MissingPackageError, require_packages

RUNTIMES = ('openvino', 'onnxruntime', 'tensorrt')


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except (BagError, EngineError, MissingPackageError, OSError, ValueError) as error:
        print(f'quantize: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('quantize: interrupted', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('quantize', __doc__)
    parser.add_argument('model', type=Path, help='ONNX file with a depth_ros contract')
    parser.add_argument(
        '--calibration',
        type=Path,
        required=True,
        metavar='PATH',
        help='recording, or folder of images, of the camera',
    )
    parser.add_argument(
        '--validation',
        type=Path,
        metavar='PATH',
        help='another one to judge on '
        '(default: images from all over the calibration, a third at most, which '
        'are kept for that)',
    )
    parser.add_argument('--output', type=Path, help='file to write (default: MODEL_int8.onnx)')
    parser.add_argument(
        '--runtime',
        choices=RUNTIMES,
        default=next((name for name in installed_backends() if name in RUNTIMES), RUNTIMES[0]),
        help='what the file is for (default: %(default)s, which is here)',
    )
    parser.add_argument(
        '--scope',
        choices=('all', 'encoder'),
        help='what to quantise (default: the encoder for tensorrt, else all)',
    )
    parser.add_argument(
        '--images',
        type=count,
        default=CALIBRATION_IMAGES,
        metavar='N',
        help='calibrate with at most N images, or pairs of them for a pose network (%(default)s)',
    )
    parser.add_argument(
        '--held-out',
        type=count,
        default=HELD_OUT_IMAGES,
        metavar='N',
        help='judge on at most N images, or pairs (%(default)s)',
    )
    topics = parser.add_argument_group(
        'topics of recordings', 'found by type and name if not given'
    )
    topics.add_argument('--image', metavar='TOPIC')
    topics.add_argument('--camera-info', metavar='TOPIC')
    group = parser.add_argument_group('bounds of what is accepted')
    add_bounds(group, {item.name: f'--{item.name.replace("_", "-")}' for item in fields(Bounds)})
    return parser


def _run(arguments: argparse.Namespace) -> None:
    require_packages('quantize', 'onnx', 'onnxruntime', 'tqdm')
    from depth_ros.deploy.quantize import quantize

    source = arguments.model
    output = arguments.output or source.with_name(f'{source.stem}_int8.onnx')
    if output.suffix != '.onnx':
        raise EngineError(f"output '{output}' must end in .onnx")
    check_writable(output)
    if output.resolve() == source.resolve():
        raise EngineError(f"output '{output}' is the model itself; give another with --output")
    model = quantize(
        source,
        arguments.calibration,
        arguments.validation,
        runtime=arguments.runtime,
        scope=arguments.scope,
        calibration_images=arguments.images,
        held_out_images=arguments.held_out,
        topics={
            name: topic for name in ('image', 'camera_info') if (topic := getattr(arguments, name))
        },
        bounds=given_bounds(arguments),
    )
    write_file(output, model.SerializeToString())
    print(
        f'wrote {output} ({output.stat().st_size / 1e6:.1f} MB, '
        f'{source.stat().st_size / 1e6:.1f} MB before)'
    )


if __name__ == '__main__':
    sys.exit(main())
