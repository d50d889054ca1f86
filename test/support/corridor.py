"""A corridor with textured floor and walls, ray-cast in numpy: depth and motion are exact."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FOCAL = 320, 160, 200.0
CAMERA_HEIGHT = 1.5  # metres
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
ROAD, BUILDING, CAR = 0, 2, 13
TEXELS = 40  # a metre
SIDE = 3.0  # metres from the camera to each wall
END = 40.0  # metres from the start to the wall at the end


def texture(seed: int) -> np.ndarray:
    """Noise at several scales, uint8 (2048, 2048)."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.normal(size=(n, n)).astype(np.float32), (2048, 2048)) / weight
        for n, weight in ((32, 1.0), (128, 0.8), (512, 0.8))
    ]
    total = np.sum(layers, axis=0)
    span = total.max() - total.min()
    return (255 * (total - total.min()) / span).astype(np.uint8)


def pose_at(index: int, step: float) -> np.ndarray:
    """Camera-to-world (4, 4): forward, swaying and turning a little."""
    angle = 0.03 * np.sin(index / 4)
    pose = np.eye(4)
    pose[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)],
        [0, 1, 0],
        [-np.sin(angle), 0, np.cos(angle)],
    ]
    pose[:3, 3] = [0.3 * np.sin(index / 5), 0, step * index]
    return pose


def render(
    pose: np.ndarray, textures: list[np.ndarray], matrix: np.ndarray = INTRINSICS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture uint8 (H, W), depth float (H, W) in metres and labels uint8 (H, W)."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    rays = pose[:3, :3] @ np.linalg.solve(matrix, pixels)
    eye = pose[:3, 3]
    # Each plane: axis, place, and which two coordinates its texture takes.
    planes = ((1, CAMERA_HEIGHT, (0, 2)), (0, -SIDE, (1, 2)), (0, SIDE, (1, 2)), (2, END, (0, 1)))
    depth, which = np.full(x.size, np.inf), np.zeros(x.size, int)
    for number, (axis, place, _) in enumerate(planes):
        with np.errstate(divide='ignore'):
            along = (place - eye[axis]) / rays[axis]
        nearer = (along > 0) & (along < depth)
        depth[nearer], which[nearer] = along[nearer], number
    hit = eye[:, None] + rays * depth
    hit = np.nan_to_num(hit, posinf=0.0, neginf=0.0).reshape(3, *x.shape)
    which = which.reshape(x.shape)
    picture = np.zeros(x.shape, np.uint8)
    for number, (_, _, axes) in enumerate(planes):
        u, v = ((TEXELS * hit[a] % 2047).astype(np.float32) for a in axes)
        there = which == number
        picture[there] = cv2.remap(textures[number], u, v, cv2.INTER_LINEAR)[there]
    labels = np.where(which == 0, ROAD, BUILDING).astype(np.uint8)
    return picture, depth.reshape(x.shape), labels


def write_drive(
    folder: Path, frames: int, step: float = 0.4, seed: int = 0, labels: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Write a sequence folder; returns true depth (N, H, W) and poses (N, 4, 4), metres."""
    (folder / 'images').mkdir(parents=True)
    (folder / 'semantics').mkdir()
    textures = [texture(10 * seed + n) for n in range(4)]
    depths, poses = [], []
    for index in range(frames):
        poses.append(pose_at(index, step))
        picture, depth, classes = render(poses[-1], textures)
        depths.append(depth)
        cv2.imwrite(str(folder / 'images' / f'{index:04d}.png'), picture)
        if labels:
            cv2.imwrite(str(folder / 'semantics' / f'{index:04d}.png'), classes)
    np.savetxt(folder / 'intrinsics.txt', INTRINSICS)
    return np.array(depths), np.array(poses)
