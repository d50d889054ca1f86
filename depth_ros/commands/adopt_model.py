"""Make somebody else's ONNX network a depth_ros model: `adopt_model foreign.onnx --output my.onnx`.

What turns images into the network's input and its output into depth, labels or motion is added to
the graph, and what the nodes must know to the file. The result is run and compared with the foreign
network before it is written. What the file itself says is found; what it does not say, how images
are normalised and what depth means, comes from --preset or the other options, never from a guess.

Refused is what the nodes could not use: networks that need more than images, several images at a
time or a state; instances instead of classes; more than 255 classes. Depth of unknown scale and
shift (affine-inverse) is marked as such: the node shows it, but publishes no distances.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from depth_ros.commands.options import command_parser
from depth_ros.deploy.adopt.options import (
    DEPTH_KINDS,
    LABEL_KINDS,
    NORMALIZATIONS,
    PRESETS,
    AdoptionError,
    Options,
)
from depth_ros.files import check_writable, write_file
from depth_ros.inference.classes import KNOWN
from depth_ros.inference.contract import ContractError
from depth_ros.inference.engine import EngineError
from depth_ros.packages import MissingPackageError, require_packages


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('adopt_model', __doc__)
    parser.add_argument('model', type=Path, help='the foreign ONNX file')
    parser.add_argument('--output', type=Path, required=True, help='the depth_ros model to write')
    parser.add_argument(
        '--preset',
        choices=sorted(PRESETS),
        help='what is published about a well-known network; the other options go before it',
    )
    parser.add_argument(
        '--image',
        type=Path,
        nargs='+',
        metavar='FILE',
        help='picture to try it on; two for a pose network (default: of a rendered street)',
    )
    parser.add_argument('--name', help="the model's (default: the file's)")
    parser.add_argument('--license', help='of the weights, for the record')
    images = parser.add_argument_group('images')
    images.add_argument(
        '--size',
        type=_pair,
        metavar='WIDTHxHEIGHT',
        help="of the network's images, where the file leaves it open",
    )
    images.add_argument(
        '--normalization',
        choices=NORMALIZATIONS,
        help='imagenet; half, -1..1; unit, 0..1; bytes, 0..255',
    )
    images.add_argument(
        '--mean',
        type=float,
        nargs=3,
        help="rather: of pixels in 0..1, in the network's order of colours",
    )
    images.add_argument('--std', type=float, nargs=3, help='likewise')
    images.add_argument('--color', choices=('rgb', 'bgr'), help='order of colours (default: rgb)')
    images.add_argument('--layout', choices=('nchw', 'nhwc'), help='default: from the shape')
    images.add_argument(
        '--inputs',
        nargs='+',
        metavar='NAME',
        help='of the images, in the order of --input-order (default: all inputs)',
    )
    outputs = parser.add_argument_group('outputs')
    outputs.add_argument(
        '--task',
        nargs='+',
        choices=('depth', 'semantics', 'pose'),
        help='what to take (default: from the outputs)',
    )
    outputs.add_argument(
        '--output-kind',
        nargs='+',
        metavar='KIND',
        choices=(*DEPTH_KINDS, *LABEL_KINDS),
        help='depth: metric, relative, inverse, affine-inverse or '
        'sigmoid; labels: logits or ids; pose: metric or relative',
    )
    outputs.add_argument(
        '--outputs',
        nargs='+',
        metavar='NAME',
        help='tensors to take; of a pose in two, rotation first (default: from their shapes)',
    )
    outputs.add_argument(
        '--classes',
        metavar=f'{{{",".join(KNOWN)}}}|FILE',
        help='names of the '
        "classes; FILE as Hugging Face's config.json, or a YAML or JSON list of "
        'names or of name and color',
    )
    outputs.add_argument(
        '--depth-range',
        type=float,
        nargs=2,
        metavar=('NEAR', 'FAR'),
        help='outside of it depth is invalid',
    )
    outputs.add_argument(
        '--offset',
        type=float,
        default=0.0,
        help='added to affine-inverse depth, where it may be negative',
    )
    camera = parser.add_argument_group('camera of the training')
    camera.add_argument(
        '--intrinsics',
        type=float,
        nargs=4,
        metavar=('FX', 'FY', 'CX', 'CY'),
        help="pixels of the network's images",
    )
    camera.add_argument(
        '--camera-info', type=Path, metavar='FILE', help='rather: calibration, YAML, of any size'
    )
    motion = parser.add_argument_group('pose')
    motion.add_argument(
        '--pose-order',
        choices=('rotation-translation', 'translation-rotation'),
        help='of the six numbers (default: the first)',
    )
    motion.add_argument(
        '--rotation',
        choices=('vector', 'euler-xyz'),
        help='vector, axis times angle (default); or the angles of Rx Ry Rz, as of SfMLearner',
    )
    motion.add_argument(
        '--pose-inverse',
        action='store_true',
        default=None,
        help='the network takes points from the previous camera to the current one',
    )
    motion.add_argument(
        '--input-order',
        choices=('previous-current', 'current-previous'),
        help='of the two images (default: the first)',
    )
    return parser


def _pair(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; give WIDTHxHEIGHT, such as 644x364")
    return int(match[1]), int(match[2])


def _options(arguments: argparse.Namespace) -> Options:
    """What was given on the command line, else the preset's values."""
    from depth_ros.deploy.adopt.read import read_camera, read_classes

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in _PASSED_ON
        if (value := getattr(arguments, name))
    }
    if arguments.output_kind:
        given['kinds'] = tuple(arguments.output_kind)
    if arguments.classes:
        given['classes'] = read_classes(arguments.classes)
    if (arguments.mean is None) != (arguments.std is None):
        raise AdoptionError('--mean and --std go together')
    if arguments.normalization and arguments.mean:
        raise AdoptionError('give --normalization, or --mean and --std, not both')
    if arguments.normalization:
        given['normalization'] = NORMALIZATIONS[arguments.normalization]
    elif arguments.mean:
        given['normalization'] = arguments.mean, arguments.std
    if arguments.intrinsics and arguments.camera_info:
        raise AdoptionError('give --intrinsics or --camera-info, not both')
    if arguments.camera_info:
        given['camera'] = read_camera(arguments.camera_info)
    for kinds in (DEPTH_KINDS, LABEL_KINDS):
        if len(set(given.get('kinds', ())) & set(kinds)) > 1:
            raise AdoptionError(f'--output-kind: give one of {", ".join(kinds)}')
    options = Options(**{**PRESETS.get(arguments.preset, {}), **given})
    if options.kind(DEPTH_KINDS) != 'affine-inverse' and options.offset:
        raise AdoptionError('--offset is for affine-inverse depth, whose shift is unknown')
    return options


_PASSED_ON = (
    'task',
    'outputs',
    'inputs',
    'size',
    'layout',
    'color',
    'offset',
    'intrinsics',
    'pose_order',
    'rotation',
    'pose_inverse',
    'input_order',
    'name',
    'license',
    'preset',
    'depth_range',
)
"""Options of the command that are those of :class:`Options`."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except (AdoptionError, ContractError, EngineError, MissingPackageError, OSError) as error:
        print(f'adopt_model: {" ".join(str(error).split())}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('adopt_model: interrupted', file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    require_packages('adopt_model', 'onnx', 'onnxruntime', 'yaml')
    from google.protobuf.message import EncodeError

    from depth_ros.deploy.adopt.adoption import adopt
    from depth_ros.deploy.adopt.read import read_pictures

    options, output = _options(arguments), arguments.output
    if output.suffix != '.onnx':
        raise AdoptionError(f"--output '{output}' must end in .onnx")
    check_writable(output, folders=True)
    if output.exists() and output.samefile(arguments.model):
        raise AdoptionError('--output is the foreign file itself; give another one')
    try:
        adopted = adopt(arguments.model, options, read_pictures(arguments.image))
        print(adopted.text(stored=not arguments.image))
        output.parent.mkdir(parents=True, exist_ok=True)
        write_file(output, adopted.model.SerializeToString())
    except EncodeError as error:  # larger than an ONNX file may be
        raise AdoptionError(str(error)) from error
    contract = adopted.contract
    print(
        f'wrote {output}: {", ".join(contract.outputs)} from '
        f'{contract.input_width}x{contract.input_height}'
    )


if __name__ == '__main__':
    sys.exit(main())
