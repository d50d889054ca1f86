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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from google.protobuf.message import EncodeError

from depth_ros.core.camera import Intrinsics
from depth_ros.core.labels import UNLABELED
from depth_ros.deploy.adopt import (
    DEPTH_KINDS,
    LABEL_KINDS,
    NORMALIZATIONS,
    PRESETS,
    Adopted,
    AdoptionError,
    Options,
    adopt,
)
from depth_ros.files import check_writable, write_file
from depth_ros.inference.classes import KNOWN
from depth_ros.inference.contract import ContractError, SemanticClass
from depth_ros.inference.engine import EngineError
from depth_ros.share import share_path


def read_classes(source: str) -> tuple[SemanticClass, ...]:
    """Classes in the order of their ids: a set that has a name, or a YAML or JSON file.

    The file holds a list of names, a list of objects with ``name`` and ``color`` (r, g, b), or,
    under ``id2label`` as Hugging Face's config.json or at the top, an object of names by id.
    Classes without a colour get one.

    Raises:
        AdoptionError: if the file cannot be used.
    """
    if source in KNOWN:
        found: Any = list(KNOWN[source]['names'])
    else:
        try:
            found = yaml.safe_load(Path(source).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AdoptionError(
                f"--classes '{source}' is none of {', '.join(KNOWN)}, and no file "
                f'that can be read: {error}'
            ) from error
    try:
        if isinstance(found, dict):
            found = found.get('id2label', found.get('names', found))
        if isinstance(found, dict):
            by_id = {int(i): name for i, name in found.items()}
            found = [by_id[i] for i in range(len(by_id))]
        classes = []
        for index, item in enumerate(found):
            item = item if isinstance(item, dict) else {'name': item}
            color = item.get('color') or _color(index)
            classes.append(SemanticClass(index, str(item['name']), tuple(map(int, color))))
    except (KeyError, TypeError, ValueError) as error:
        raise AdoptionError(
            f"--classes '{source}' must hold a list of names, or names by ids from 0 on: {error!r}"
        ) from error
    if not 0 < len(classes) <= UNLABELED:
        raise AdoptionError(
            f"--classes '{source}' names {len(classes)} classes; the contract has "
            f'ids for 1 to {UNLABELED}'
        )
    return tuple(classes)


def _color(index: int) -> tuple[int, int, int]:
    """A colour of each index that differs from its neighbours': the golden angle apart."""
    hue, value = int(index * 137.508) % 180, 255 - 70 * (index // 6 % 3)
    pixel = np.array([[[hue, 160 + 60 * (index % 2), value]]], np.uint8)
    return tuple(int(v) for v in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])


def read_camera(path: Path) -> Intrinsics:
    """The rectified camera of a YAML file, as camera_calibration writes it or as a message.

    Raises:
        AdoptionError: if the file cannot be used.
    """
    try:
        found = next(d for d in yaml.safe_load_all(path.read_text()) if d)
        if 'image_width' in found:
            size = found['image_width'], found['image_height']
            p = found.get('projection_matrix', {}).get('data') or [0.0] * 12
            k = found['camera_matrix']['data']
        else:
            size, p, k = (found['width'], found['height']), found['p'], found['k']
        fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if p[0] > 0 else (k[0], k[4], k[2], k[5])
        camera = Intrinsics(*(float(v) for v in (fx, fy, cx, cy)), *(int(v) for v in size))
        if not (camera.fx > 0 and camera.fy > 0 and camera.width > 0 and camera.height > 0):
            raise ValueError('focal lengths and sizes must be positive')
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        StopIteration,
        AttributeError,
    ) as error:
        raise AdoptionError(
            f"--camera-info '{path}' is no calibration ({error!r}): it must be "
            "camera_calibration's YAML file, or a camera_info message as 'ros2 "
            "topic echo --once' prints it"
        ) from error
    return camera


def _parser() -> argparse.ArgumentParser:
    summary, epilog = __doc__.split('\n\n', 1)
    parser = argparse.ArgumentParser(
        prog='adopt_model',
        description=summary.split(':')[0] + '.',
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    """The options; those of the preset where none were given."""
    given = {
        key: value
        for key, value in {
            'task': arguments.task and tuple(arguments.task),
            'kinds': arguments.output_kind and tuple(arguments.output_kind),
            'outputs': arguments.outputs and tuple(arguments.outputs),
            'inputs': arguments.inputs and tuple(arguments.inputs),
            'size': arguments.size,
            'layout': arguments.layout,
            'color': arguments.color,
            'classes': arguments.classes and read_classes(arguments.classes),
            'offset': arguments.offset,
            'pose_order': arguments.pose_order,
            'rotation': arguments.rotation,
            'pose_inverse': arguments.pose_inverse,
            'input_order': arguments.input_order,
            'name': arguments.name,
            'license': arguments.license,
            'preset': arguments.preset,
            'depth_range': arguments.depth_range and tuple(arguments.depth_range),
        }.items()
        if value
    }
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
    if arguments.intrinsics:
        given['intrinsics'] = tuple(arguments.intrinsics)
    for kinds in (DEPTH_KINDS, LABEL_KINDS):
        if len(set(given.get('kinds', ())) & set(kinds)) > 1:
            raise AdoptionError(f'--output-kind: give one of {", ".join(kinds)}')
    options = Options(**{**PRESETS.get(arguments.preset, {}), **given})
    if options.kind(DEPTH_KINDS) != 'affine-inverse' and options.offset:
        raise AdoptionError('--offset is for affine-inverse depth, whose shift is unknown')
    return options


def _pictures(paths: Sequence[Path] | None) -> list[np.ndarray]:
    if not paths:
        # Not where this module is loaded: it brings ROS 2.
        from depth_ros.inference.self_test import FRAMES

        try:
            paths = [share_path(name) for name in FRAMES]
        except FileNotFoundError as error:
            raise AdoptionError(f'{error}; give pictures with --image') from error
    pictures = []
    for path in paths[:2]:
        if not path.is_file():
            what = 'is a folder' if path.is_dir() else 'does not exist'
            raise AdoptionError(f"--image '{path}' {what}; give a picture")
        picture = cv2.imread(str(path))
        if picture is None:
            raise AdoptionError(f"--image '{path}' is no picture that OpenCV can read")
        pictures.append(np.ascontiguousarray(picture[..., ::-1]))
    return pictures


def _report(adopted: Adopted, stored: bool) -> str:
    contract = adopted.contract
    lines = list(adopted.notes)
    if stored:
        lines.append('tried on a rendered street: give a photograph with --image to see more')
    for name, value in adopted.outputs.items():
        far = adopted.difference[name]
        if name == 'depth':
            unit = (
                'm'
                if contract.metric
                else 'of unknown scale and shift'
                if contract.affine_invariant
                else 'model units'
            )
            text = (
                f'{value.min():.3g} to {value.max():.3g}, median {np.median(value):.3g} '
                f'{unit}; {far:.1e} from the foreign network'
            )
        elif name == 'labels':
            ids, counts = np.unique(value, return_counts=True)
            seen = sorted(zip(counts.tolist(), ids.tolist(), strict=True), reverse=True)[:6]
            names = dict.fromkeys([UNLABELED], 'unlabelled') | {
                c.id: c.name for c in contract.classes
            }
            text = ', '.join(f'{names[i]} {100 * n / value.size:.0f} %' for n, i in seen)
            text += f'; {100 * far:.2f} % as the foreign network'
        else:
            text = f'{np.round(value, 5).tolist()}; {far:.1e} from the foreign network'
        lines.append(f'{name}: {text}')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        options = _options(arguments)
        if arguments.output.suffix != '.onnx':
            raise AdoptionError(f"--output '{arguments.output}' must end in .onnx")
        check_writable(arguments.output, folders=True)
        if arguments.output.exists() and arguments.output.samefile(arguments.model):
            raise AdoptionError('--output is the foreign file itself; give another one')
        adopted = adopt(arguments.model, options, _pictures(arguments.image))
        print(_report(adopted, not arguments.image))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_file(arguments.output, adopted.model.SerializeToString())
    except (AdoptionError, ContractError, EngineError, OSError, EncodeError) as error:
        print(f'adopt_model: {" ".join(str(error).split())}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('adopt_model: interrupted', file=sys.stderr)
        return 130
    contract = adopted.contract
    print(
        f'wrote {arguments.output}: {", ".join(contract.outputs)} from '
        f'{contract.input_width}x{contract.input_height}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
