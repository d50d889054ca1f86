"""numpy arrays as ROS messages: images, camera_info, point clouds."""

from __future__ import annotations

import sys
from array import array
from copy import copy

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from depth_ros.core.camera import Intrinsics
from depth_ros.core.pointcloud import POINT

# The fields of POINT.
_FIELDS = [
    PointField(
        name=name,
        offset=4 * index,
        count=1,
        datatype=PointField.UINT32 if name == 'label' else PointField.FLOAT32,
    )
    for index, name in enumerate(('x', 'y', 'z', 'rgb', 'label'))
]


class ImageBuffer:
    """An image message whose bytes are a numpy array.

    Filling the array fills the message, without a copy. The array may be overwritten once the
    message is published, since publishing copies.

    Args:
        encoding: '32FC1', 'mono8' or 'rgb8'.
        width, height: Size in pixels.
        fill: Value of every pixel at first.

    Attributes:
        array: (H, W), or (H, W, 3) for rgb8.
        message: The message around it.
    """

    _TYPES = {'32FC1': (np.float32, 1), 'mono8': (np.uint8, 1), 'rgb8': (np.uint8, 3)}

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
        `info` itself under the new header if the output has the size that `info` describes.
        Otherwise a pinhole camera with K and P of `camera`, no distortion and no binning: the
        distortion coefficients belong to the unrectified image.
    """
    result = copy(info)  # faster than a new one; arrays in it are replaced, never changed
    result.header = header
    roi_or_binning = info.roi.width or info.roi.height or max(info.binning_x, info.binning_y) > 1
    if (info.width, info.height) == (camera.width, camera.height) and not roi_or_binning:
        if any(info.p[:11]):
            return result
    else:
        result.width, result.height = camera.width, camera.height
        result.roi, result.binning_x, result.binning_y = RegionOfInterest(), 0, 0
        result.distortion_model = info.distortion_model or 'plumb_bob'
        result.d = [0.0] * len(info.d)
        result.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    # The baseline of a stereo pair in P[3] is a length times the focal length.
    baseline = info.p[3] * camera.fx / info.p[0] if info.p[0] else 0.0
    result.p = [
        *(camera.fx, 0.0, camera.cx, baseline),
        *(0.0, camera.fy, camera.cy, 0.0),
        *(0.0, 0.0, 1.0, 0.0),
    ]
    return result


def cloud_message(header: Header, cloud: np.ndarray) -> PointCloud2:
    """Return an organised point cloud message.

    Args:
        header: Stamp and frame of the points.
        cloud: (H, W) of `core.pointcloud.POINT`, contiguous; invalid points are NaN.
    """
    height, width = cloud.shape
    message = PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=_FIELDS,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=width * POINT.itemsize,
        is_dense=False,
    )
    data = array('B')
    data.frombytes(cloud.data.cast('B'))
    message.data = data
    return message
