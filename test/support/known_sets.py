"""Two small data sets of known depth and motion, and a reconstruction's file."""

import cv2
import numpy as np
import torch
import yaml

from depth_ros.evaluation.structure import FILE, Structure

WIDTH, HEIGHT, FOCAL, FRAMES = 96, 64, 50.0, 6
MATRIX = np.array([[FOCAL, 0, 47.5], [0, FOCAL, 31.5], [0, 0, 1]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def write_structure(folder, poses, points, held_out, metric=True):
    """A structure.npz as the reconstruction writes it; the same points (n, 3) in each frame."""
    count, n = len(poses), len(points)
    Structure(
        part=np.zeros(count, np.int32),
        poses=poses,
        metric_spread=np.array([0.02 if metric else np.nan], np.float32),
        starts=np.arange(count + 1) * n,
        xy=np.tile(points[:, :2], (count, 1)).astype(np.float32),
        depth=np.tile(points[:, 2], count).astype(np.float32),
        sigma=np.full(count * n, 0.05, np.float32),
        error=np.full(count * n, 0.3, np.float32),
        track=np.full(count * n, 5, np.int32),
        angle=np.full(count * n, 3.0, np.float32),
        point=np.tile(np.arange(n), count),
        held_out=np.tile(held_out, count),
        intrinsics=MATRIX,
    ).write(folder / FILE)


def make_sets(root):
    """Two data sets of a wall 10 m ahead that slides by 0.4 m a frame: 'real' with points and
    motion of a reconstruction, 'synthetic' with true depth and poses."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT // 4, WIDTH, 3), np.uint8)
    wall = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, 0, 3] = 0.4 * np.arange(FRAMES)
    for name in ('real', 'synthetic'):
        folder = root / name
        for kind in ('images', 'semantics', 'depth'):
            if kind != 'depth' or name == 'synthetic':
                (folder / kind).mkdir(parents=True)
        for i in range(FRAMES):
            cv2.imwrite(str(folder / f'images/{i}.png'), wall[:, 2 * i : 2 * i + WIDTH])
            labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
            labels[: HEIGHT // 4] = 10
            cv2.imwrite(str(folder / f'semantics/{i}.png'), labels)
            if name == 'synthetic':
                depth = np.full((HEIGHT, WIDTH), 10000, np.uint16)
                cv2.imwrite(str(folder / f'depth/{i}.png'), depth)
        np.savetxt(folder / 'intrinsics.txt', MATRIX)
    np.savetxt(root / 'synthetic/poses.txt', poses[:, :3].reshape(FRAMES, 12))
    grid = np.stack(np.meshgrid(np.arange(2, WIDTH, 4), np.arange(2, HEIGHT, 4)), -1)
    points = np.column_stack([grid.reshape(-1, 2), np.full(grid[..., 0].size, 10.0)])
    held_out = np.arange(len(points)) % 10 == 0
    write_structure(root / 'real', poses, points, held_out)


def write_mixture(path, *entries):
    """Write a mixture of these data sets; returns its path."""
    path.write_text(yaml.safe_dump({'sets': list(entries)}))
    return str(path)
