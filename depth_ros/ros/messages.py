"""ROS messages from and to numpy arrays: images, point clouds, camera_info.

cv_bridge and sensor_msgs_py do the work where ROS 2 has installed them and they run;
rosbags-image and numpy do it elsewhere, with the same results. Nothing else in the package
touches message bytes.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from array import array
from collections.abc import Callable
from copy import copy
from functools import cache

import cv2
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

# Bytes per pixel of the encodings that image_to_rgb takes.
_PIXEL_BYTES = {
    'rgb8': 3,
    'bgr8': 3,
    'rgba8': 4,
    'bgra8': 4,
    'mono8': 1,
    'rgb16': 6,
    'bgr16': 6,
    'rgba16': 8,
    'bgra16': 8,
    'mono16': 2,
    'bayer_rggb8': 1,
    'bayer_bggr8': 1,
    'bayer_gbrg8': 1,
    'bayer_grbg8': 1,
    'bayer_rggb16': 2,
    'bayer_bggr16': 2,
    'bayer_gbrg16': 2,
    'bayer_grbg16': 2,
    'uyvy': 2,
    'yuv422': 2,
    'yuyv': 2,
    'yuv422_yuy2': 2,
}
# OpenCV's type names say nothing about colour; drivers that use them follow its BGR order.
_ALIASES = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC1': 'mono16'}

CLOUD_TYPE = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<f4'), ('label', '<u4')])
"""One point: metres in the optical frame, colour as 0x00rrggbb in the bits of a float32 (what PCL
and RViz read), class id. 20 bytes, without gaps."""

_CLOUD_FIELDS = [
    PointField(
        name=name,
        offset=offset,
        count=1,
        datatype=PointField.UINT32 if name == 'label' else PointField.FLOAT32,
    )
    for name, (_, offset) in CLOUD_TYPE.fields.items()
]

_PROBE = """
import numpy as np
from cv_bridge import CvBridge
bridge = CvBridge()
message = bridge.cv2_to_imgmsg(np.zeros((2, 2, 3), np.uint8), 'bgr8')
assert bridge.imgmsg_to_cv2(message, 'rgb8').shape == (2, 2, 3)
"""


class ConversionError(ValueError):
    """A message cannot be converted; the message says why and what to do."""


@cache
def image_backend() -> str:
    """Which library decodes images: ``cv_bridge`` or ``rosbags-image``.

    cv_bridge is tried in a process of its own first: a build for NumPy 1 crashes the interpreter
    under NumPy 2.

    Raises:
        ConversionError: if neither is there.
    """
    if importlib.util.find_spec('cv_bridge') is not None:
        probe = subprocess.run([sys.executable, '-c', _PROBE], capture_output=True, check=False)
        if probe.returncode == 0:
            return 'cv_bridge'
    if importlib.util.find_spec('rosbags') and importlib.util.find_spec('rosbags.image'):
        return 'rosbags-image'
    raise ConversionError(
        'no library that decodes images: install cv_bridge (ROS 2 package '
        "cv_bridge, built for the installed NumPy) or 'pip install "
        "rosbags-image'"
    )


@cache
def _decoder() -> Callable[[Image], np.ndarray]:
    if image_backend() == 'cv_bridge':
        from cv_bridge import CvBridge

        bridge = CvBridge()
        return lambda message: bridge.imgmsg_to_cv2(message, 'rgb8')
    from rosbags.image import image_to_cvimage

    return lambda message: image_to_cvimage(message, 'rgb8')


def image_to_rgb(message: Image) -> np.ndarray:
    """Pixels of an image message in any common encoding.

    Returns:
        uint8 [height, width, 3] RGB. For an rgb8 message it is a view of the message's data.

    Raises:
        ConversionError: if the encoding is unknown, the size is zero, or data is missing.
    """
    encoding = _ALIASES.get(message.encoding, message.encoding)
    width, height = message.width, message.height
    if encoding not in _PIXEL_BYTES:
        raise ConversionError(
            f"image encoding '{message.encoding}' is not supported; let the camera driver publish "
            f'one of {", ".join(_PIXEL_BYTES)}'
        )
    if width == 0 or height == 0:
        raise ConversionError(
            f'image is {width}x{height} pixels, which is empty; check the camera '
            "driver's resolution"
        )
    row = width * _PIXEL_BYTES[encoding]
    step = message.step
    if step < row:
        raise ConversionError(
            f'image step is {step} bytes, but {width} pixels of {encoding} need {row}; the camera '
            'driver fills width, step or encoding wrongly'
        )
    needed = step * (height - 1) + row
    if len(message.data) < needed:
        raise ConversionError(
            f'image data is truncated: {len(message.data)} bytes, but {width}x{height} {encoding} '
            f'with step {step} needs {needed}; check the camera driver and the connection'
        )
    if step != row or encoding != message.encoding:
        message = _packed(message, encoding, row)
    try:
        return _decoder()(message)
    except ConversionError:
        raise
    except Exception as error:  # each library raises types of its own
        raise ConversionError(
            f'{image_backend()} cannot convert a {width}x{height} '
            f"'{encoding}' image to rgb8: {error}"
        ) from error


def _packed(message: Image, encoding: str, row: int) -> Image:
    """The same image without padding at the end of its rows, which rosbags-image ignores."""
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(data, (message.height, row), (message.step, 1))
    result = Image(
        header=message.header,
        height=message.height,
        width=message.width,
        encoding=encoding,
        is_bigendian=message.is_bigendian,
        step=row,
    )
    result.data = array('B', rows.tobytes())
    return result


def compressed_to_rgb(message: CompressedImage) -> np.ndarray:
    """Pixels of a JPEG or PNG message.

    Returns:
        uint8 [height, width, 3] RGB.

    Raises:
        ConversionError: if the data is empty, truncated, damaged, or of another format.
    """
    data = np.frombuffer(message.data, np.uint8)
    what = f"compressed image (format '{message.format}', {data.size} bytes)"
    if 'compressedDepth' in message.format:
        raise ConversionError(f'{what} is a depth image; subscribe to the colour camera')
    if data.size == 0:
        raise ConversionError(f'{what} is empty; check the camera driver and the connection')
    # libjpeg fills what is missing with grey and only prints a warning.
    head, tail = data[:8].tobytes(), data[-64:].tobytes()
    if (
        head.startswith(b'\xff\xd8')
        and b'\xff\xd9' not in tail
        or head.startswith(b'\x89PNG')
        and b'IEND' not in tail
    ):
        raise ConversionError(
            f'{what} is truncated: its end marker is missing; check the camera '
            'driver and the connection'
        )
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ConversionError(f'{what} cannot be decoded: {error}') from error
    if image is None:
        raise ConversionError(
            f'{what} is neither JPEG nor PNG, or it is damaged; check the camera '
            "driver's image_transport settings"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


class ImageBuffer:
    """An image message whose bytes are a numpy array.

    Filling the array fills the message, without a copy. The message may be published and the
    array overwritten again and again, since publishing copies.

    Attributes:
        array: [height, width] or [height, width, 3].
        message: the message around it.
    """

    _TYPES = {'32FC1': (np.float32, 1), 'mono8': (np.uint8, 1), 'rgb8': (np.uint8, 3)}

    def __init__(self, encoding: str, width: int, height: int, fill: float = 0) -> None:
        """Make an image of ``encoding`` (32FC1, mono8 or rgb8) with ``fill`` in every pixel."""
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
    """camera_info of an output image.

    Args:
        info: the input's calibration.
        header: header of the output image.
        camera: intrinsics of the output image.

    Returns:
        ``info`` itself under the new header if the output has the size that it was made for.
        Otherwise a pinhole camera with K and P of ``camera``, no distortion and no binning: the
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
        camera.fx,
        0.0,
        camera.cx,
        baseline,
        0.0,
        camera.fy,
        camera.cy,
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    ]
    return result


def make_cloud(
    depth: np.ndarray,
    rgb: np.ndarray,
    labels: np.ndarray | None,
    rays: tuple[np.ndarray, np.ndarray],
    unlabeled: int,
) -> np.ndarray:
    """Points of a depth image, in its rows and columns.

    Args:
        depth: float32 [H, W] along the optical axis; NaN gives a NaN point.
        rgb: uint8 [H, W, 3].
        labels: uint8 [H, W], or ``None`` for ``unlabeled`` everywhere.
        rays: of the same pixels, from :meth:`depth_ros.core.camera.Intrinsics.rays`.
        unlabeled: label of points without a class.

    Returns:
        [H, W] of :data:`CLOUD_TYPE`.
    """
    cloud = np.empty(depth.shape, CLOUD_TYPE)
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


def cloud_message(header: Header, cloud: np.ndarray) -> PointCloud2:
    """An organised point cloud message.

    Args:
        header: stamp and frame of the points.
        cloud: [H, W] of :data:`CLOUD_TYPE`; invalid points are NaN.
    """
    height, width = cloud.shape
    create = _create_cloud()
    if create is not None:
        # It takes rows and columns in different order from version to version.
        message = create(header, _CLOUD_FIELDS, cloud.reshape(-1))
    else:
        message = PointCloud2(
            header=header, fields=_CLOUD_FIELDS, is_bigendian=False, point_step=CLOUD_TYPE.itemsize
        )
        data = array('B')
        data.frombytes(memoryview(cloud).cast('B'))
        message.data = data
    message.height, message.width = height, width
    message.row_step = width * CLOUD_TYPE.itemsize
    message.is_dense = False
    return message


@cache
def _create_cloud() -> Callable | None:
    """sensor_msgs_py's create_cloud, or ``None`` where it is missing."""
    try:
        from sensor_msgs_py.point_cloud2 import create_cloud
    except ImportError:
        return None
    return create_cloud
