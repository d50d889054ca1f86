"""Render a street to a sequence folder with ground truth."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

MAX_MILLIMETRES = 65535


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
    renderer,
    seed,
    folder,
    frames,
    rate,
    jpeg_quality: int | None = 95,
    step=lambda: None,
    mounting=None,
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
