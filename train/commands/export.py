"""``python -m train export``: turn a checkpoint into the two model files that depth_ros runs."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from depth_ros.inference.outputs import OUTPUTS
from train.export.models import export_models
from train.export.start import write_start
from train.training.system import load_system


def _image_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; give width and height, as 1280x720")
    return int(match[1]), int(match[2])


def _outputs(text: str) -> tuple[str, ...]:
    names = text.split(',')
    if not set(names) <= set(OUTPUTS) or 'labels' in names and 'depth' not in names:
        raise argparse.ArgumentTypeError(
            f"'{text}' must be some of {', '.join(OUTPUTS)}, with commas; labels come with depth"
        )
    return tuple(name for name in OUTPUTS if name in names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument('checkpoint', type=Path, help='best.ckpt or last.ckpt of a run')
    parser.add_argument('--out', type=Path, default=Path('models'), help='folder (%(default)s)')
    parser.add_argument(
        '--data',
        type=Path,
        help='sequences of the camera, for its intrinsics and the metric scale '
        "(default: the run's training data)",
    )
    parser.add_argument(
        '--camera-height',
        type=float,
        metavar='METRES',
        help='height of the camera over the road; makes the models metric',
    )
    parser.add_argument(
        '--outputs',
        type=_outputs,
        metavar='NAME,...',
        help='outputs to export, of depth, labels and pose (default: all that the checkpoint has)',
    )
    parser.add_argument(
        '--image-size',
        type=_image_size,
        metavar='WxH',
        help="size of the camera's images; the model then takes them whole and resizes them on "
        'the GPU (default: the nodes resize images)',
    )
    parser.add_argument(
        '--pose', type=Path, metavar='CHECKPOINT', help='take the pose network from this checkpoint'
    )
    parser.add_argument(
        '--start',
        type=Path,
        metavar='FILE',
        help='also write a checkpoint in half precision, for fit --init',
    )
    parser.add_argument('--name', default='street', help='name of the networks (%(default)s)')
    parser.add_argument('--license', default='unknown', help='licence of the weights')


def run(args: argparse.Namespace) -> None:
    """Export a checkpoint."""
    if args.camera_height is not None and not args.camera_height > 0:
        raise ValueError(f'--camera-height {args.camera_height}: must be positive, in metres')
    system = load_system(args.checkpoint)
    pose = load_system(args.pose) if args.pose else None
    options = {
        'data': args.data,
        'height': args.camera_height,
        'image_size': args.image_size,
        'name': args.name,
        'license': args.license,
    }
    outputs = args.outputs
    if pose is not None:
        if outputs is None or 'pose' in outputs:
            export_models(pose, args.out, outputs=('pose',), **options)
        outputs = tuple(name for name in outputs or ('depth', 'labels') if name != 'pose')
    if outputs != ():
        export_models(system, args.out, outputs=outputs, **options)
    if args.start:
        write_start(system, args.start, pose)
