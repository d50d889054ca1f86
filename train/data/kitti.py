"""What KITTI raw data and KITTI odometry share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.data.reader import Option
from train.data.source import Map
from train.data.velodyne import project_velodyne, read_points

DEPTH_SCALE = 1 / 256
"""Metres per step of depth files, as in KITTI's own: 16 bits reach 256 m."""

CAMERAS = Option(
    '--cameras',
    type=int,
    nargs='+',
    choices=range(4),
    metavar='N',
    help='numbers of the cameras (default: raw 2 3; odometry 2, or 0 without 2)',
)


def velodyne_depth(
    folder: Path, paths: list[Path], size: tuple[int, int], projection: Callable[[], np.ndarray]
) -> Map:
    """Return the depth of each frame whose Velodyne file exists, by Eigen's protocol.

    Args:
        folder: Folder of the Velodyne files, each named as its picture.
        paths: Paths of the pictures.
        size: Width and height of the pictures.
        projection: Returns the projection (3, 4) from the Velodyne's frame to pixels. Called only
            if the folder exists, as it needs further calibration files.
    """
    if not folder.is_dir():
        return lambda _: None
    matrix = projection()

    def depth(index: int) -> np.ndarray | None:
        path = folder / f'{paths[index].stem}.bin'
        return (
            project_velodyne(read_points(path), matrix, (size[1], size[0]))
            if path.exists()
            else None
        )

    return depth


def camera_offset(projection: np.ndarray) -> np.ndarray:
    """Return T_camera_camera0 (4, 4) of a rectified camera from its P (3, 4) = K [I t]."""
    transform = np.eye(4)
    transform[:3, 3] = np.linalg.solve(projection[:, :3], projection[:, 3])
    return transform
