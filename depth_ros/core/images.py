"""Images from the bytes of messages: pictures, depth and class ids, raw or compressed.

The one place that knows the encodings. A message is anything with the fields of sensor_msgs/Image
or sensor_msgs/CompressedImage, whether rclpy received it or `rosbags` read it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, cast

import cv2
import numpy as np

from depth_ros.core.pictures import (
    JPEG,
    PNG,
    CutShortError,
    ImageError,
    decode_picture,
    picture_size,
)

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class RawImage(Protocol):
    """The fields of sensor_msgs/Image that matter. `step` is the length of a row in bytes."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def encoding(self) -> str: ...

    @property
    def is_bigendian(self) -> int: ...

    @property
    def step(self) -> int: ...

    @property
    def data(self) -> Any: ...


class CompressedImage(Protocol):
    """The fields of sensor_msgs/CompressedImage that matter.

    `format` is 'jpeg', 'png' or what image_transport writes, such as 'rgb8; jpeg compressed bgr8'
    or '16UC1; compressedDepth png'.
    """

    @property
    def format(self) -> str: ...

    @property
    def data(self) -> Any: ...


class UnknownEncodingError(ImageError):
    """An image has an encoding that is not in `ENCODINGS`."""


class Encoding(NamedTuple):
    """How the pixels of an encoding lie in memory, and how they become RGB.

    Attributes:
        dtype: Type of a number: 'u1' or 'u2'.
        channels: Numbers per pixel in a row.
        to_rgb: OpenCV's conversion to RGB; None if the pixels are RGB already.
        color: Whether there are colours in it.
        half: Rows of chroma below the image are half as many as its rows (4:2:0).
        block: Columns and rows that share a chroma value.
    """

    dtype: str
    channels: int
    to_rgb: int | None
    color: bool = True
    half: bool = False
    block: tuple[int, int] = (1, 1)


ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding('u1', 3, None),
    'bgr8': Encoding('u1', 3, cv2.COLOR_BGR2RGB),
    'rgba8': Encoding('u1', 4, cv2.COLOR_RGBA2RGB),
    'bgra8': Encoding('u1', 4, cv2.COLOR_BGRA2RGB),
    'mono8': Encoding('u1', 1, cv2.COLOR_GRAY2RGB, color=False),
    # OpenCV names Bayer patterns by the second row, ROS by the first.
    'bayer_rggb8': Encoding('u1', 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': Encoding('u1', 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': Encoding('u1', 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': Encoding('u1', 1, cv2.COLOR_BayerGB2RGB),
}
"""Every encoding of sensor_msgs/Image that `decode_rgb` takes, but for `ALIASES`."""
ENCODINGS |= {f'{name[:-1]}16': e._replace(dtype='u2') for name, e in ENCODINGS.items()}
for _names, _encoding in {
    ('uyvy', 'yuv422'): Encoding('u1', 2, cv2.COLOR_YUV2RGB_UYVY, block=(2, 1)),
    ('yuyv', 'yuv422_yuy2'): Encoding('u1', 2, cv2.COLOR_YUV2RGB_YUYV, block=(2, 1)),
    ('nv12',): Encoding('u1', 1, cv2.COLOR_YUV2RGB_NV12, half=True, block=(2, 2)),
    ('nv21',): Encoding('u1', 1, cv2.COLOR_YUV2RGB_NV21, half=True, block=(2, 2)),
}.items():
    ENCODINGS |= dict.fromkeys(_names, _encoding)

ALIASES = {
    '8UC1': 'mono8',
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '16UC1': 'mono16',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
}
"""OpenCV's names of types say nothing about colour; drivers that use them follow its BGR order."""

DEPTH_ENCODINGS = ('32FC1', '16UC1')
LABEL_ENCODINGS = ('mono8', '8UC1')


def is_compressed(message: RawImage | CompressedImage) -> TypeGuard[CompressedImage]:
    """Tell whether a message is a CompressedImage."""
    return hasattr(message, 'format')


def encoding_of(message: RawImage | CompressedImage) -> str:
    """Return an Image's encoding; for a CompressedImage that before the ';' of its format.

    'jpeg' or 'png' where the format says none, and for grey pictures in JPEG, which image_transport
    makes of class ids, too.
    """
    if not is_compressed(message):
        return cast('RawImage', message).encoding
    name = _before_compression(message)
    if 'compressedDepth' in message.format:
        return name
    packed = 'png' if bytes(message.data[: len(PNG)]) == PNG else 'jpeg'
    known = name in ENCODINGS or name in ALIASES or name in DEPTH_ENCODINGS
    return name if known and (packed == 'png' or has_color(name)) else packed


def _before_compression(message: CompressedImage) -> str:
    """Return the encoding that a CompressedImage had as an Image; '' where it does not say."""
    name, semicolon, _ = message.format.partition(';')
    return name.strip() if semicolon else ''


def has_color(encoding: str) -> bool:
    """Tell whether pictures of an encoding, as `encoding_of` returns it, can have colours."""
    encoding = ALIASES.get(encoding, encoding)
    return encoding in ('jpeg', 'png') or (encoding in ENCODINGS and ENCODINGS[encoding].color)


def size_of(message: RawImage | CompressedImage) -> tuple[int, int]:
    """Return width and height of an image, without decoding it where its header tells.

    Raises:
        ImageError: if it is damaged.
    """
    if not is_compressed(message):
        raw = cast('RawImage', message)
        return raw.width, raw.height
    data = bytes(message.data)
    if data.startswith((JPEG, PNG)):
        return picture_size(data)
    height, width = decode_rgb(message).shape[:2]
    return width, height


def decode_rgb(message: RawImage | CompressedImage) -> np.ndarray:
    """Return the picture of an Image of any of `ENCODINGS`, or of a JPEG or PNG CompressedImage.

    Returns:
        RGB (H, W, 3) uint8. That of an rgb8 Image is a view of the message's data if its rows
        have no padding.

    Raises:
        UnknownEncodingError: if the encoding is not in the list.
        ImageError: if the size is zero, or data is missing or damaged.
    """
    if is_compressed(message):
        return _decompressed_rgb(message)
    raw = cast('RawImage', message)
    name = ALIASES.get(raw.encoding, raw.encoding)
    if name not in ENCODINGS:
        raise UnknownEncodingError(
            f"image encoding '{raw.encoding}' is not supported; let the camera driver publish "
            f'one of {", ".join(ENCODINGS)}'
        )
    encoding = ENCODINGS[name]
    columns, rows = encoding.block
    if raw.width % columns or raw.height % rows:
        raise ImageError(
            f'image is {raw.width}x{raw.height} pixels, but {name} has chroma for blocks '
            f'of {columns}x{rows}; check the camera driver'
        )
    pixels = _pixels(raw, encoding.dtype, encoding.channels, half=encoding.half)
    rgb = pixels if encoding.to_rgb is None else cv2.cvtColor(pixels, encoding.to_rgb)
    return rgb if encoding.dtype == 'u1' else cv2.convertScaleAbs(rgb, alpha=255 / 65535)


def decode_depth(message: RawImage | CompressedImage) -> np.ndarray:
    """Return the depth of an Image or of a CompressedImage of compressedDepth.

    Returns:
        float32 (H, W), metres along the optical axis, NaN = invalid (REP 118).

    Raises:
        ImageError: if the encoding is neither 32FC1 (m) nor 16UC1 (mm), or data is missing or
            damaged.
    """
    encoding = encoding_of(message)
    if encoding not in DEPTH_ENCODINGS:
        raise ImageError(f"depth encoding '{encoding}' is not supported: use 32FC1 or 16UC1")
    if is_compressed(message):
        plugin = 'compressedDepth' in message.format
        # 12 bytes: format enumeration, then the two quantisation parameters; then the png.
        depth = _unchanged(message.data[12:] if plugin else message.data)
        if depth.dtype != np.uint16 or depth.ndim != 2 or encoding == '32FC1' and not plugin:
            raise ImageError(
                f'compressed depth is {depth.dtype} {depth.shape} pixels, not uint16 (H, W): '
                'publish compressedDepth, or 16UC1 as png'
            )
        if encoding == '32FC1' and plugin:
            scale, offset = struct.unpack_from('<ff', message.data, 4)
            coded = depth.astype(np.float32)
            with np.errstate(divide='ignore'):
                return np.where(coded > 0, scale / (coded - offset), np.nan).astype(np.float32)
    else:
        kind = 'f4' if encoding == '32FC1' else 'u2'
        depth = _pixels(cast('RawImage', message), kind)[..., 0]
    if encoding == '16UC1':
        return np.where(depth > 0, depth * np.float32(1e-3), np.float32(np.nan))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def decode_labels(message: RawImage | CompressedImage) -> np.ndarray:
    """Return the class ids of a mono8 Image or a png CompressedImage as uint8 (H, W).

    Raises:
        ImageError: if the encoding is another, or data is missing or damaged.
    """
    if is_compressed(message):
        labels = _unchanged(message.data)
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ImageError(f'labels are {labels.dtype} {labels.shape} pixels: publish mono8')
        return labels
    raw = cast('RawImage', message)
    if raw.encoding not in LABEL_ENCODINGS:
        raise ImageError(f"labels encoding '{raw.encoding}' is not supported: publish mono8")
    return _pixels(raw, 'u1')[..., 0]


def _pixels(
    message: RawImage, dtype: DTypeLike, channels: int = 1, *, half: bool = False
) -> np.ndarray:
    """Return the numbers (rows, W, channels) of an Image in this machine's byte order.

    Args:
        message: The image.
        dtype: Type of its numbers.
        channels: Numbers per pixel.
        half: Half as many rows follow those of the image, and are returned below them.

    Raises:
        ImageError: if the size is zero, the step too short, or data is missing.
    """
    kind = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    width, height, step = message.width, message.height, message.step
    if not width or not height:
        raise ImageError(
            f"image is {width}x{height} pixels, which is empty; check the camera driver's "
            'resolution'
        )
    row = width * channels * kind.itemsize
    if step < row:
        raise ImageError(
            f'image step is {step} bytes, but {width} pixels of {message.encoding} need {row}; '
            'the camera driver fills width, step or encoding wrongly'
        )
    rows = height * 3 // 2 if half else height
    needed = step * (rows - 1) + row  # the last row needs no padding
    if len(message.data) < needed:
        raise ImageError(
            f'image data is truncated: {len(message.data)} bytes, but {width}x{height} '
            f'{message.encoding} with step {step} needs {needed}; check the camera driver and '
            'the connection'
        )
    numbers = np.ndarray(
        (rows, width, channels),
        kind,
        memoryview(message.data),
        strides=(step, channels * kind.itemsize, kind.itemsize),
    )
    return np.ascontiguousarray(numbers, kind.newbyteorder('='))


def _decompressed_rgb(message: CompressedImage) -> np.ndarray:
    name = _before_compression(message)
    what = f"compressed image (format '{message.format}', {len(message.data)} bytes)"
    if 'compressedDepth' in message.format or name in DEPTH_ENCODINGS:
        raise ImageError(f'{what} is a depth image: choose the topic of a colour camera')
    if not len(message.data):
        raise ImageError(f'{what} is empty; check the camera driver and the connection')
    pattern = ENCODINGS[name].to_rgb if name.startswith('bayer_') and name in ENCODINGS else None
    try:
        image = decode_picture(
            message.data, cv2.IMREAD_COLOR if pattern is None else cv2.IMREAD_UNCHANGED
        )
    except CutShortError as error:
        raise ImageError(
            f'{what} is truncated; check the camera driver and the connection'
        ) from error
    except ImageError as error:
        raise ImageError(
            f'{what} cannot be used: {error}; check the image_transport settings of the camera '
            'driver, and the connection'
        ) from error
    if pattern is None:
        # JPEG and PNG files say themselves in which order their colours are.
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    if image.ndim == 3:
        image = np.ascontiguousarray(image[..., :3])
        if not _is_grey(image):  # the driver has made colours of it
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image = image[..., 0].copy()
    rgb = cv2.cvtColor(image, pattern)
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb, alpha=255 / 65535)


def _is_grey(image: np.ndarray) -> bool:
    """Tell whether all channels of a picture (H, W, 3) are the same."""
    return bool((image[..., :1] == image[..., 1:]).all())


def _unchanged(data: Any) -> np.ndarray:
    """Return the pixels of a compressed image as they are, which must be stored without loss."""
    what = f'compressed image of {len(data)} bytes'
    if bytes(data[: len(JPEG)]) == JPEG:
        raise ImageError(f'{what} is JPEG, which changes the values: publish png')
    try:
        return decode_picture(data, cv2.IMREAD_UNCHANGED)
    except ImageError as error:
        raise ImageError(f'{what} cannot be decoded as png: {error}') from error
