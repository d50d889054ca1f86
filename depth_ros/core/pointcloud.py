"""Point clouds: those of a lidar decoded and projected, those of a depth image made.

Takes PointCloud2 messages of rclpy or as :mod:`depth_ros.bags` decodes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from depth_ros.core.camera import Intrinsics, project

POINT = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<f4'), ('label', '<u4')])
"""One point: metres in the optical frame, colour as 0x00rrggbb in the bits of a float32 (what PCL
and RViz read), class id. 20 bytes, without gaps."""

_FLOATS = {7: 'f4', 8: 'f8'}
"""NumPy's names of the datatypes FLOAT32 and FLOAT64 of sensor_msgs/PointField."""


def points_from_cloud(message: Any) -> np.ndarray:
    """Positions of the points of a sensor_msgs/PointCloud2.

    Points that are not finite or exactly at the sensor are left out: drivers fill these in for
    rays without a return.

    Returns:
        float32 (N, 3), x y z in the message's frame, metres.

    Raises:
        ValueError: if the message lacks x, y or z as floats, or its sizes do not fit its data.
    """
    count = message.height * message.width
    fields = {f.name: f for f in message.fields}
    order = '>' if message.is_bigendian else '<'
    formats, offsets = [], []
    for name in 'xyz':
        if name not in fields or fields[name].datatype not in _FLOATS:
            listed = ', '.join(f'{f.name} (datatype {f.datatype})' for f in message.fields)
            raise ValueError(
                f"point cloud in frame '{message.header.frame_id}' has no field "
                f"'{name}' of FLOAT32 (7) or FLOAT64 (8); it has {listed or 'none'}: "
                'record the cloud that the lidar driver publishes in x, y, z'
            )
        formats.append(order + _FLOATS[fields[name].datatype])
        offsets.append(fields[name].offset)
    if not count:
        return np.empty((0, 3), np.float32)
    step, row = message.point_step, message.row_step
    if message.height == 1:  # some drivers leave row_step at 0 then
        row = message.width * step
    end = max(
        offset + np.dtype(kind).itemsize for kind, offset in zip(formats, offsets, strict=True)
    )
    if (
        step < end
        or row < message.width * step
        or len(message.data) < (message.height - 1) * row + message.width * step
    ):
        raise ValueError(
            f"point cloud in frame '{message.header.frame_id}' has {message.width}x"
            f'{message.height} points of {step} bytes in rows of {row}, but {len(message.data)} '
            f'bytes of data, and coordinates up to byte {end}: check what publishes it'
        )
    kind = np.dtype(
        {'names': list('xyz'), 'formats': formats, 'offsets': offsets, 'itemsize': step}
    )
    cloud = np.ndarray((message.height, message.width), kind, message.data, strides=(row, step))
    points = np.stack([cloud[name].ravel() for name in 'xyz'], axis=1).astype(np.float32)
    return points[np.isfinite(points).all(axis=1) & points.any(axis=1)]


def project_points(points: np.ndarray, camera_lidar: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Depth image of the points that a camera sees.

    What the lidar sees past an obstacle, because it is mounted elsewhere than the camera, shows
    through between the obstacle's points.

    Args:
        points: (N, 3), metres, in the lidar's frame.
        camera_lidar: T_camera_lidar 4x4, to the camera's optical frame.
        camera: the rectified camera.

    Returns:
        float32 (H, W), along the optical axis, metres; NaN where there is no point.
    """
    u, v, depth = project(points, camera.matrix @ camera_lidar[:3])
    ahead = depth > 0
    # A pixel's centre is a whole number, so that it reaches half a pixel to all sides.
    return nearest_depth(
        np.floor(u[ahead] + 0.5),
        np.floor(v[ahead] + 0.5),
        depth[ahead],
        (camera.height, camera.width),
    )


def nearest_depth(
    u: np.ndarray, v: np.ndarray, depth: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Depth image of points whose pixels are known; of several in one pixel the nearest counts.

    Args:
        u, v: column and row of each point, whole numbers as floats [N]; points outside the image
            are left out.
        depth: [N], metres.
        shape: height and width of the image.

    Returns:
        float32 of ``shape``, metres; NaN where there is no point.
    """
    inside = (u >= 0) & (v >= 0) & (u < shape[1]) & (v < shape[0])
    result = np.full(shape, np.inf, np.float32)
    pixels = v[inside].astype(np.intp), u[inside].astype(np.intp)
    np.minimum.at(result, pixels, depth[inside].astype(np.float32))
    result[np.isinf(result)] = np.nan
    return result


def make_cloud(
    depth: np.ndarray,
    rgb: np.ndarray,
    labels: np.ndarray | None,
    rays: tuple[np.ndarray, np.ndarray],
    unlabeled: int,
) -> np.ndarray:
    """Return the points of a depth image, in its rows and columns.

    Args:
        depth: float32 (H, W) along the optical axis; NaN gives a NaN point.
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), or None for `unlabeled` everywhere.
        rays: Of the same pixels, from `core.camera.Intrinsics.rays`.
        unlabeled: Label of points without a class.

    Returns:
        (H, W) of `POINT`.
    """
    cloud = np.empty(depth.shape, POINT)
    np.multiply(depth, rays[0], out=cloud['x'])
    np.multiply(depth, rays[1][:, None], out=cloud['y'])
    cloud['z'] = depth
    color = rgb[..., 0].astype(np.uint32)
    for channel in (1, 2):
        color <<= 8
        color |= rgb[..., channel]
    cloud['rgb'] = color.view(np.float32)
    cloud['label'] = unlabeled if labels is None else labels
    return cloud
