"""Sparse true depth: KITTI's Velodyne points, projected into the image of a camera."""

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
    """Project Velodyne points into a depth map. Of several points in one pixel, the nearest counts.

    ``eigen`` is the protocol of Eigen et al. with which SfMLearner, monodepth2 and FSRE-Depth
    evaluate (their ``generate_depth_map`` with ``vel_depth``). Depth is the forward distance from
    the Velodyne, not from the camera; points behind the Velodyne are left out; and pixels are
    counted from one, as in KITTI's Matlab code, so that the map is shifted one pixel up and left.
    (To find points in one pixel, the published code uses a formula that also confuses the last
    column with the next row's first. Ours does not.)

    ``camera`` gives the depth along the camera's optical axis, in the pixel that contains the
    point.

    Args:
        points: (N, 3) or more columns: x forward, y left, z up, metres, in the Velodyne's frame.
        projection: (3, 4) from that frame to homogeneous pixels.
        shape: (height, width) of the image.
        protocol: one of PROTOCOLS.

    Returns:
        float32 (height, width), metres, 0 where there is no point.

    Raises:
        ValueError: if the protocol is unknown.
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
    """Read a KITTI ``.bin`` file: float32 (N, 4), x y z in metres and reflectance.

    Raises:
        DataError: if the file is no Velodyne file, or is cut short.
    """
    values = np.fromfile(path, np.float32)
    if not values.size or values.size % 4:
        raise DataError(f"'{path}' has {values.size} numbers: not a Velodyne file, or cut short")
    return values.reshape(-1, 4)


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """Read all rows ``name: numbers`` of a KITTI calibration file.

    Raises:
        DataError: if the file cannot be read.
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
    """Rigid transform (4, 4) from the rows R and T of a calibration file."""
    matrix = np.eye(4)
    matrix[:3, :3] = row(rows, 'R', path).reshape(3, 3)
    matrix[:3, 3] = row(rows, 'T', path)
    return matrix


def row(rows: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """Look up a row of a calibration file.

    Raises:
        DataError: if the file lacks the row.
    """
    if name not in rows or not rows[name].size:
        raise DataError(f"calibration '{path}' has no row '{name}:'")
    return rows[name]


def raw_projection(date: Path, camera: int) -> np.ndarray:
    """Projection (3, 4) from the Velodyne's frame to pixels of a rectified camera of KITTI raw.

    Args:
        date: folder of the day, with calib_cam_to_cam.txt and calib_velo_to_cam.txt.
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
    """Projection (3, 4) from the Velodyne's frame to pixels of a camera.

    Args:
        path: calib.txt of KITTI's odometry or object benchmark.
        camera: 0 to 3.
    """
    rows = read_calibration(path)
    rectify, velo = np.eye(4), np.eye(4)
    if 'R0_rect' in rows:  # object benchmark; odometry's Tr includes it
        rectify[:3, :3] = rows['R0_rect'].reshape(3, 3)
        velo[:3] = row(rows, 'Tr_velo_to_cam', path).reshape(3, 4)
    else:
        velo[:3] = row(rows, 'Tr', path).reshape(3, 4)
    return row(rows, f'P{camera}', path).reshape(3, 4) @ rectify @ velo
