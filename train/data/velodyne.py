"""Sparse depth ground truth: KITTI's Velodyne points in the image of one of its cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depth_ros.core.camera import project
from depth_ros.core.pointcloud import nearest_depth
from train.data.sequences import DataError

PROTOCOLS = ('eigen', 'camera')


def project_velodyne(
    points: np.ndarray, projection: np.ndarray, shape: tuple[int, int], protocol: str = 'eigen'
) -> np.ndarray:
    """Depth map of the points that a camera sees.

    ``eigen`` is the protocol of Eigen et al. as SfMLearner, monodepth2 and FSRE-Depth evaluate
    (their ``generate_depth_map`` with ``vel_depth``): the depth is the forward distance from the
    Velodyne, not the camera; points behind the Velodyne are left out; and pixels are counted from
    one, as in KITTI's Matlab code, so that the map lies one pixel up and left of the image. Of
    several points in one pixel the nearest counts. (The published code finds such points by a
    formula that also confuses the last column with the next row's first. Ours does not.)

    ``camera`` is the depth along the camera's optical axis, at the pixel in which the point is.

    Args:
        points: (N, 3) or more columns: x forward, y left, z up, metres, from the Velodyne.
        projection: (3, 4) from those to homogeneous pixels.
        shape: (height, width) of the image.
        protocol: one of PROTOCOLS.

    Returns:
        float32 (height, width), metres, 0 where there is no point.

    Raises:
        ValueError: for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol {protocol!r} must be one of {", ".join(PROTOCOLS)}')
    u, v, depth = project(points[:, :3], projection)
    ahead, first = depth > 0, 0
    if protocol == 'eigen':
        depth, first = np.asarray(points[:, 0], float), 1
        ahead &= depth > 0
    u, v = np.rint(u[ahead]) - first, np.rint(v[ahead]) - first
    return np.nan_to_num(nearest_depth(u, v, depth[ahead], shape))


def read_points(path: Path) -> np.ndarray:
    """Points of a KITTI ``.bin`` file: float32 (N, 4), x y z in metres and reflectance."""
    values = np.fromfile(path, np.float32)
    if not values.size or values.size % 4:
        raise DataError(f"'{path}' has {values.size} numbers: not a Velodyne file, or cut short")
    return values.reshape(-1, 4)


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """All rows ``name: numbers`` of a KITTI calibration file.

    Raises:
        DataError: if it cannot be read.
    """
    rows = {}
    try:
        for line in path.read_text().splitlines():
            name, _, numbers = line.partition(':')
            try:
                rows[name.strip()] = np.array(numbers.split(), float)
            except ValueError:
                continue  # a date
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read calibration '{path}': {error}") from error
    return rows


def rigid(rows: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The transform (4, 4) of a calibration file's rows R and T."""
    matrix = np.eye(4)
    matrix[:3, :3] = row(rows, 'R', path).reshape(3, 3)
    matrix[:3, 3] = row(rows, 'T', path)
    return matrix


def row(rows: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """One row of a calibration.

    Raises:
        DataError: if the file lacks it.
    """
    if name not in rows or not rows[name].size:
        raise DataError(f"calibration '{path}' has no row '{name}:'")
    return rows[name]


def raw_projection(date: Path, camera: int) -> np.ndarray:
    """Velodyne to pixels (3, 4) of a rectified camera of KITTI raw.

    Args:
        date: the day's folder, with calib_cam_to_cam.txt and calib_velo_to_cam.txt.
        camera: 0 to 3.
    """
    path = date / 'calib_cam_to_cam.txt'
    rows = read_calibration(path)
    rectify = np.eye(4)
    rectify[:3, :3] = row(rows, 'R_rect_00', path).reshape(3, 3)
    path_velo = date / 'calib_velo_to_cam.txt'
    velo = rigid(read_calibration(path_velo), path_velo)
    return row(rows, f'P_rect_{camera:02d}', path).reshape(3, 4) @ rectify @ velo


def file_projection(path: Path, camera: int) -> np.ndarray:
    """Velodyne to pixels (3, 4) from a calib.txt of KITTI's odometry or object benchmark."""
    rows = read_calibration(path)
    rectify, velo = np.eye(4), np.eye(4)
    if 'R0_rect' in rows:  # object benchmark; odometry's Tr includes it
        rectify[:3, :3] = rows['R0_rect'].reshape(3, 3)
        velo[:3] = row(rows, 'Tr_velo_to_cam', path).reshape(3, 4)
    else:
        velo[:3] = row(rows, 'Tr', path).reshape(3, 4)
    return row(rows, f'P{camera}', path).reshape(3, 4) @ rectify @ velo
