"""``python -m train synthesize``: render drives through procedural streets, with ground truth."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

MAX_MILLIMETRES = 65535


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
        ValueError: an option is out of range.
        OSError: OpenGL cannot be used here, or files cannot be written.
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
    todo = [i for i in range(args.sequences) if not (args.out / f'{i:04d}').exists()]
    if not todo:
        print(f'{args.out}: all {args.sequences} sequences are there')
        return
    renderer = Renderer(intrinsics, args.width, args.height, 1 if args.fast else 2)
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


def random_camera(seed, width, height):
    """A camera for a seed: intrinsics (3, 3) in pixels, and its mounting as ``World`` takes it.

    Half of the cameras look from a car's windscreen (1.2 to 1.8 m), the others from 0.3 to 2 m, as
    small robots do; the pitch is within 6 degrees and the focal length 0.45 to 1.05 widths.
    """
    rng = np.random.default_rng([seed, 6])
    low, high = ((1.2, 1.8), (0.3, 2.0))[rng.integers(2)]
    focal = width * np.exp(rng.uniform(np.log(0.45), np.log(1.05)))
    center = width * rng.uniform(0.46, 0.54), height * rng.uniform(0.38, 0.62)
    matrix = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    return matrix, {
        'camera_height': rng.uniform(low, high),
        'pitch': np.radians(rng.uniform(-6, 6)),
    }


def write_sequence(
    renderer, seed, folder, frames, rate, jpeg_quality=95, step=lambda: None, mounting=None
):
    """Render one street to a sequence folder, which appears only when it is complete.

    Args:
        renderer: a ``train.synthetic.renderer.Renderer``.
        seed: decides everything.
        folder: where to; replaced as a whole.
        frames: how many.
        rate: frames a second.
        jpeg_quality: of the pictures; None writes PNG.
        step: called after each frame.
        mounting: height and pitch of the camera, as ``World`` takes them.
    """
    from train.synthetic.world import World

    world = World(seed, **(mounting or {}))
    folder = Path(folder)
    part = folder.with_name(f'.{folder.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    for name in ('images', 'depth', 'semantics'):
        (part / name).mkdir(parents=True)
    times = np.arange(frames) / rate
    poses, pending = [], []
    with ThreadPoolExecutor(2) as writers:
        for index, t in enumerate(times):
            frame = renderer.render(world, float(t))
            poses.append(frame.pose)
            pending.append(writers.submit(_write_frame, part, index, frame, jpeg_quality))
            if len(pending) > 16:
                pending.pop(0).result()
            step()
        for job in pending:
            job.result()
    start = np.linalg.inv(poses[0])
    np.savetxt(part / 'poses.txt', [(start @ p)[:3].ravel() for p in poses], fmt='%.9g')
    np.savetxt(part / 'times.txt', times, fmt='%.6f')
    np.savetxt(part / 'intrinsics.txt', renderer.intrinsics, fmt='%.9g')
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


def _write_frame(folder, index, frame, jpeg_quality):
    millimetres = np.round(frame.depth * 1000.0)
    millimetres[millimetres > MAX_MILLIMETRES] = 0
    picture = cv2.cvtColor(np.ascontiguousarray(frame.image), cv2.COLOR_RGB2BGR)
    kind = 'png' if jpeg_quality is None else 'jpg'
    options = [] if jpeg_quality is None else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    # Fast compression: deflate at its default level would take longer than the rendering.
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    for name, data, how in (
        (f'images/{index:06d}.{kind}', picture, options),
        (f'depth/{index:06d}.png', millimetres.astype(np.uint16), fast),
        (f'semantics/{index:06d}.png', frame.labels, fast),
    ):
        if not cv2.imwrite(str(folder / name), data, how):
            raise OSError(f'cannot write {folder / name}')
