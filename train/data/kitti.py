"""What KITTI raw data and KITTI odometry share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.data.reader import Option
from train.data.source import Map
from train.data.velodyne import project_velodyne, read_points

DEPTH_SCALE = 1 / 256
"""Metres of one step of depth files, as KITTI has it: 16 bits reach to 256 m."""

CAMERAS = Option(
    '--cameras',
    type=int,
    nargs='+',
    choices=range(4),
    metavar='N',
    help='which (raw: 2 3; odometry: 2 where it is, or else 0)',
)


def velodyne_depth(
    folder: Path, paths: list[Path], size: tuple[int, int], projection: Callable[[], np.ndarray]
) -> Map:
    """Return the depth of each frame whose Velodyne file exists, by Eigen's protocol.

    Args:
        folder: Of the Velodyne files, each with the stem of its picture.
        paths: Of the pictures.
        size: Width and height of the pictures.
        projection: Returns the matrix (3, 4) from the Velodyne to pixels; called only if there
            are Velodyne files, since it needs more calibration.
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
