"""Every encoding of images, and a picture in each: what nodes, evaluation and training decode."""

import cv2
import numpy as np

ALIASES = {
    '8UC1': 'mono8',
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '16UC1': 'mono16',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
}

TABLE = [
    *('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'),
    *('rgb16', 'bgr16', 'rgba16', 'bgra16', 'mono16'),
    *('bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'),
    *('bayer_rggb16', 'bayer_bggr16', 'bayer_gbrg16', 'bayer_grbg16'),
    *('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21'),
    *ALIASES,
]
"""Encodings of sensor_msgs/Image that must be decoded everywhere."""


def smooth_picture(width: int, height: int) -> np.ndarray:
    """A coloured picture (H, W, 3) RGB that survives coarser chroma and Bayer patterns."""
    coarse = np.random.default_rng(5).integers(20, 230, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """A picture as a camera driver writes it: rows of uint8 or uint16, (rows, W, channels)."""
    encoding = ALIASES.get(encoding, encoding)
    if encoding.endswith('16'):
        return encode(rgb, f'{encoding[:-2]}8').astype(np.uint16) * 257
    red, green, blue = (rgb[..., i] for i in range(3))
    if encoding.startswith('bayer_'):
        out = np.empty(rgb.shape[:2], np.uint8)
        for place, color in enumerate(encoding[6:10]):
            rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
            out[rows, columns] = {'r': red, 'g': green, 'b': blue}[color][rows, columns]
        return out[..., None]
    if encoding == 'mono8':
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    if encoding in ('rgb8', 'bgr8', 'rgba8', 'bgra8'):
        planes = {'r': red, 'g': green, 'b': blue, 'a': np.full_like(red, 9)}
        return np.stack([planes[c] for c in encoding[:-1]], -1)
    # BT.601, video range, by its definition.
    y = 16 + (65.738 * red + 129.057 * green + 25.064 * blue) / 256
    u = 128 + (-37.945 * red - 74.494 * green + 112.439 * blue) / 256
    v = 128 + (112.439 * red - 94.154 * green - 18.285 * blue) / 256
    if encoding in ('nv12', 'nv21'):
        pairs = (u, v) if encoding == 'nv12' else (v, u)
        colors = np.stack([p[::2, ::2] for p in pairs], -1).reshape(len(y) // 2, -1)
        return np.rint(np.concatenate([y, colors])).astype(np.uint8)[..., None]
    chroma = y.copy()
    chroma[:, ::2], chroma[:, 1::2] = u[:, ::2], v[:, ::2]
    order = (chroma, y) if encoding in ('uyvy', 'yuv422') else (y, chroma)
    return np.rint(np.stack(order, -1)).astype(np.uint8)


def fields(rgb: np.ndarray, encoding: str, padding: int = 0, bigendian: bool = False) -> dict:
    """The fields of sensor_msgs/Image of a picture, `data` as bytes.

    Args:
        rgb: The picture.
        encoding: One of `TABLE`.
        padding: Bytes of rubbish at the end of each row.
        bigendian: The byte order.
    """
    numbers = encode(rgb, encoding)
    ordered = numbers.astype(numbers.dtype.newbyteorder('>' if bigendian else '<'))
    rows = np.frombuffer(ordered.tobytes(), np.uint8).reshape(len(numbers), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    return {
        'height': rgb.shape[0],
        'width': rgb.shape[1],
        'encoding': encoding,
        'is_bigendian': int(bigendian),
        'step': rows.shape[1],
        'data': rows.tobytes(),
    }


def check(found: np.ndarray, rgb: np.ndarray, encoding: str) -> None:
    """Check a decoded picture against what was encoded; only what encodings lose may differ."""
    name = ALIASES.get(encoding, encoding)
    assert found.dtype == np.uint8 and found.shape == rgb.shape
    if name.startswith('mono'):
        rgb = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    difference = np.abs(found.astype(int) - rgb)[2:-2, 2:-2]
    if name.startswith(('bayer', 'yu', 'uy', 'nv')):
        assert difference.mean() < 5
    else:
        assert difference.max() == 0
