"""``python -m train synthesize``: render drives through procedural streets, with ground truth."""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from depth_ros.files import locked, write_file

CLAIM = 'synthesized.json'
OPTIONS = (
    *('frames', 'seed', 'rate', 'width', 'height', 'fx', 'fy', 'cx', 'cy', 'fast', 'vary'),
    *('png', 'jpeg_quality'),
)
"""What a sequence depends on."""


def add_arguments(parser):
    """Declare the subcommand's options."""
    parser.add_argument('--out', type=Path, required=True, help='folder of sequence folders')
    parser.add_argument('--sequences', type=int, default=1, help='how many streets (default 1)')
    parser.add_argument('--frames', type=int, default=100, help='frames a sequence (default 100)')
    parser.add_argument(
        '--seed', type=int, default=1, help='of the first street; the next has the next (default 1)'
    )
    parser.add_argument('--rate', type=float, default=10.0, help='frames a second (default 10)')
    parser.add_argument('--width', type=int, default=640, help='pixels (default 640)')
    parser.add_argument('--height', type=int, default=192, help='pixels (default 192)')
    parser.add_argument('--fx', type=float, help='focal length, pixels (default 0.58 WIDTH)')
    parser.add_argument('--fy', type=float, help='focal length, pixels (default: FX)')
    parser.add_argument('--cx', type=float, help='principal point, pixels (default WIDTH / 2)')
    parser.add_argument('--cy', type=float, help='principal point, pixels (default 0.47 HEIGHT)')
    parser.add_argument(
        '--fast',
        action='store_true',
        help='no supersampling: 45 instead of 95 ms of processor time a frame of '
        '640x192, without a GPU',
    )
    parser.add_argument(
        '--vary',
        action='store_true',
        help='another camera each sequence: 0.3 to 2 m high, pitched, of another focal length',
    )
    parser.add_argument('--png', action='store_true', help='pictures as PNG instead of JPEG')
    parser.add_argument('--jpeg-quality', type=int, default=95, help='1 to 100 (default 95)')


def run(args):
    """Render what ``args`` asks for; sequences that exist are kept.

    Raises:
        ValueError: if an option is out of range, or the folder holds sequences of other options.
        HeldError: if another process renders to the folder.
        OSError: if OpenGL cannot be used here, or files cannot be written.
    """
    from train.synthetic.renderer import Renderer, default_intrinsics

    for name in ('sequences', 'frames', 'rate', 'width', 'height'):
        if not 0 < getattr(args, name) < 1e9:
            raise ValueError(f'--{name} must be positive, is {getattr(args, name)}')
    if args.seed < 0:
        raise ValueError(f'--seed must not be negative, is {args.seed}')
    if not 1 <= args.jpeg_quality <= 100:
        raise ValueError(f'--jpeg-quality must be 1 to 100, is {args.jpeg_quality}')
    intrinsics = default_intrinsics(args.width, args.height)
    if args.fx is not None:
        intrinsics[0, 0] = intrinsics[1, 1] = args.fx
    for name, index in (('fy', (1, 1)), ('cx', (0, 2)), ('cy', (1, 2))):
        if getattr(args, name) is not None:
            intrinsics[index] = getattr(args, name)
    if not (np.isfinite(intrinsics).all() and min(intrinsics[0, 0], intrinsics[1, 1]) > 0):
        raise ValueError('--fx and --fy must be positive, --cx and --cy finite')
    _check_claim(args)
    if not _missing(args):
        print(f'{args.out}: all {args.sequences} sequences are there')
        return
    renderer = Renderer(intrinsics, args.width, args.height, 1 if args.fast else 2)
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out / '.lock', 'synthesize'):
        _check_claim(args)
        write_file(args.out / CLAIM, json.dumps(_claim(args), indent=1) + '\n')
        _render(args, renderer)


def _missing(args):
    """Numbers of the sequences that are not there yet."""
    return [i for i in range(args.sequences) if not (args.out / f'{i:04d}').exists()]


def _render(args, renderer):
    """Render the sequences that are not there yet."""
    from train.synthetic.sequence import random_camera, write_sequence

    todo = _missing(args)
    with tqdm(
        total=len(todo) * args.frames, unit='frame', desc=str(args.out), disable=None
    ) as progress:
        for i in todo:
            folder = args.out / f'{i:04d}'
            mounting = {}
            if args.vary:
                matrix, mounting = random_camera(args.seed + i, args.width, args.height)
                renderer.look_through(matrix)
            write_sequence(
                renderer,
                args.seed + i,
                folder,
                args.frames,
                args.rate,
                None if args.png else args.jpeg_quality,
                progress.update,
                mounting,
            )


def _claim(args):
    """What the sequences are made with."""
    return {name: getattr(args, name) for name in OPTIONS}


def _check_claim(args):
    """Check that the sequences that are there were made with the same.

    Raises:
        ValueError: if they were not.
    """
    path = args.out / CLAIM
    found = json.loads(path.read_text()) if path.exists() else _claim(args)
    if other := [name for name, value in _claim(args).items() if found.get(name) != value]:
        name = other[0]
        raise ValueError(
            f"'{args.out}' was made with {name} {found.get(name)}, not {getattr(args, name)}: "
            'choose another --out, or remove it'
        )
