"""Depth in fewer bytes: millimetres, and image_transport's compressedDepth.

`core.images.decode_depth` is the inverse.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

QUANTIZATION = 100.0
"""image_transport's default: steps of depth are depth^2 / 10100 metres, 1 cm at 10 m."""


def millimetres(depth: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return depth in whole millimetres, as 16UC1 of REP 118 has it.

    Args:
        depth: float32 (H, W), metres; NaN = invalid.
        out: uint16 (H, W) to fill.

    Returns:
        uint16 (H, W); 0 where the depth is invalid or farther than 65.535 m.
    """
    result = np.empty(depth.shape, np.uint16) if out is None else out
    scaled = depth * np.float32(1000)
    scaled += np.float32(0.5)
    scaled[~(scaled < 65536)] = 0  # NaN, too
    np.copyto(result, scaled, casting='unsafe')
    return result


def compressed_depth(depth: np.ndarray, far: float) -> bytes:
    """Return the data of a CompressedImage of compressedDepth.

    Args:
        depth: uint16 millimetres (H, W), coded as they are, or float32 metres, of which the inverse
            is coded as image_transport does it: c = a / depth + b with a = q (q + 1) and
            b = 1 - a / far.
        far: The farthest depth, metres.

    Returns:
        12 bytes of header (format, a, b) and a png of 16 bits; 0 = invalid.
    """
    a, b = 0.0, 0.0
    coded = depth
    if depth.dtype != np.uint16:
        a = QUANTIZATION * (QUANTIZATION + 1)
        b = 1 - a / far
        with np.errstate(divide='ignore', invalid='ignore'):
            inverse = np.float32(a) / depth + np.float32(b + 0.5)
        inverse[~((inverse >= 1) & (inverse < 65536))] = 0
        coded = inverse.astype(np.uint16)
    _, png = cv2.imencode('.png', coded, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return struct.pack('<iff', 0, a, b) + png.tobytes()
