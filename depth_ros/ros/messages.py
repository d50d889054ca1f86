"""ROS messages from and to numpy arrays: images, camera_info, point clouds.

Where ROS 2 has installed them, cv_bridge decodes the encodings that `core.images` does not list,
and sensor_msgs_py makes the clouds.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache

import numpy as np
from sensor_msgs.msg import (
    CameraInfo,
    CompressedImage,
    Image,
    PointCloud2,
    PointField,
    RegionOfInterest,
)
from std_msgs.msg import Header

from depth_ros.core.camera import Intrinsics
from depth_ros.core.images import ImageError, UnknownEncodingError, decode_rgb

_PROBE = """
import numpy as np
from cv_bridge import CvBridge
bridge = CvBridge()
message = bridge.cv2_to_imgmsg(np.zeros((2, 2, 3), np.uint8), 'bgr8')
assert bridge.imgmsg_to_cv2(message, 'rgb8').shape == (2, 2, 3)
"""


def image_to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Return the picture of a message as RGB (H, W, 3) uint8.

    Raises:
        ImageError: if it cannot be decoded: see `core.images.decode_rgb`.
    """
    try:
        return decode_rgb(message)
    except UnknownEncodingError:
        decode = _cv_bridge()
        if decode is None or isinstance(message, CompressedImage):
            raise
        try:
            return decode(message)
        except Exception as error:  # cv_bridge raises types of its own
            raise ImageError(
                f'cv_bridge cannot convert a {message.width}x{message.height} '
                f"'{message.encoding}' image to rgb8: {error}"
            ) from error


@cache
def _cv_bridge() -> Callable[[Image], np.ndarray] | None:
    """Return cv_bridge's decoder, or None where cv_bridge is missing or does not run.

    It is tried in a process of its own first: a build for NumPy 1 crashes the interpreter under
    NumPy 2.
    """
    if importlib.util.find_spec('cv_bridge') is None:
        return None
    if subprocess.run([sys.executable, '-c', _PROBE], capture_output=True, check=False).returncode:
        return None
    from cv_bridge import CvBridge  # pyright: ignore[reportMissingImports]  part of ROS 2

    bridge = CvBridge()
    return lambda message: bridge.imgmsg_to_cv2(message, 'rgb8')


class ImageBuffer:
    """An image message whose bytes are a numpy array.

    Filling the array fills the message, without a copy. The array may be overwritten once the
    message is published, since publishing copies.

    Args:
        encoding: '32FC1', '16UC1', 'mono8' or 'rgb8'.
        width, height: Size in pixels.
        fill: Value of every pixel at first.

    Attributes:
        array: (H, W), or (H, W, 3) for rgb8.
        message: The message around it.
    """

    _TYPES = {
        '32FC1': (np.float32, 1),
        '16UC1': (np.uint16, 1),
        'mono8': (np.uint8, 1),
        'rgb8': (np.uint8, 3),
    }

    def __init__(self, encoding: str, width: int, height: int, fill: float = 0) -> None:
        dtype, channels = self._TYPES[encoding]
        step = width * channels * np.dtype(dtype).itemsize
        self.message = Image(
            width=width,
            height=height,
            encoding=encoding,
            step=step,
            is_bigendian=int(sys.byteorder == 'big'),
        )
        self.message.data = array('B', bytes(step * height))
        shape = (height, width) if channels == 1 else (height, width, channels)
        self.array = np.frombuffer(self.message.data, dtype).reshape(shape)
        self.array[...] = fill


def camera_info(info: CameraInfo, header: Header, camera: Intrinsics) -> CameraInfo:
    """Return the camera_info of an output image.

    Args:
        info: The input's calibration.
        header: Header of the output image.
        camera: Intrinsics of the output image.

    Returns:
        `info` itself under the new header if the output has the size that `info` describes; a P
        that is no projection (zeros, NaN) is replaced by one of `camera`.
        Otherwise a pinhole camera with K and P of `camera`, no distortion and no binning: the
        distortion coefficients belong to the unrectified image.
    """
    result = copy(info)  # faster than a new one; arrays in it are replaced, never changed
    result.header = header
    roi_or_binning = info.roi.width or info.roi.height or max(info.binning_x, info.binning_y) > 1
    if (info.width, info.height) == (camera.width, camera.height) and not roi_or_binning:
        if _usable(info.p):
            return result
    else:
        result.width, result.height = camera.width, camera.height
        result.roi, result.binning_x, result.binning_y = RegionOfInterest(), 0, 0
        result.distortion_model = info.distortion_model or 'plumb_bob'
        result.d = [0.0] * len(info.d)
        result.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    # The baseline of a stereo pair in P[3] is a length times the focal length.
    baseline = info.p[3] * camera.fx / info.p[0] if _usable(info.p) else 0.0
    result.p = [
        *(camera.fx, 0.0, camera.cx, baseline),
        *(0.0, camera.fy, camera.cy, 0.0),
        *(0.0, 0.0, 1.0, 0.0),
    ]
    return result


def rectified_info(info: CameraInfo) -> CameraInfo:
    """Return the camera_info of the rectified image of a camera: its P, without distortion."""
    result = copy(info)
    if _usable(info.p):
        result.k = [*info.p[:3], *info.p[4:7], *info.p[8:11]]
    result.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    result.distortion_model, result.d = 'plumb_bob', [0.0] * 5
    return result


def _usable(projection: Sequence[float] | np.ndarray) -> bool:
    """Return whether P is a projection: then it is what the intrinsics were taken from."""
    return all(map(math.isfinite, projection)) and all(projection[i] > 0 for i in (0, 5, 10))


def cloud_message(header: Header, cloud: np.ndarray) -> PointCloud2:
    """Return an organised point cloud message.

    Args:
        header: Stamp and frame of the points.
        cloud: (H, W) of `core.pointcloud.POINT` or another type of float32 and uint32 fields
            without gaps, contiguous; invalid points are NaN.
    """
    fields = _fields(cloud.dtype)
    create = _create_cloud()
    if create is not None:
        # It takes rows and columns in different order from version to version.
        message = create(header, fields, cloud.reshape(-1))
    else:
        message = PointCloud2(
            header=header, fields=fields, is_bigendian=False, point_step=cloud.itemsize
        )
        data = array('B')
        if cloud.size:  # no view of nothing can be cast
            data.frombytes(cloud.data.cast('B'))
        message.data = data
    message.height, message.width = cloud.shape
    message.row_step = message.width * cloud.itemsize
    message.is_dense = False
    return message


@cache
def _fields(kind: np.dtype) -> list[PointField]:
    """Return the fields of a type of points."""
    return [
        PointField(
            name=name,
            offset=offset,
            count=1,
            datatype=PointField.UINT32 if field.kind == 'u' else PointField.FLOAT32,
        )
        for name, (field, offset, *_) in (kind.fields or {}).items()
    ]


@cache
def _create_cloud() -> Callable[..., PointCloud2] | None:
    """Return sensor_msgs_py's create_cloud, or None where it is missing."""
    try:
        from sensor_msgs_py.point_cloud2 import (  # pyright: ignore[reportMissingImports]
            create_cloud,
        )
    except ImportError:
        return None
    return create_cloud
