"""Pictures from the bytes of JPEG and PNG files, in messages and on disk: the one decoder.

A picture is its pixels as they are stored. An EXIF orientation is a note for whoever shows it; the
calibration, depth and labels beside a picture know nothing of it. Only a picture that comes alone
may be turned by it (`upright`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

JPEG, PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'
"""The first bytes of either."""


class ImageError(ValueError):
    """An image cannot be decoded; the message says why and what to do."""


class CutShortError(ImageError):
    """A part of a picture is missing."""


def decode_picture(
    data: Any, flags: int = cv2.IMREAD_COLOR, *, upright: bool = False
) -> np.ndarray:
    """Decode a picture of any format that OpenCV knows.

    What stands behind its end (padding of a camera's buffer, the film of a Motion Photo) does not
    matter, and neither does a missing end marker; missing pixels do.

    Args:
        data: The bytes.
        flags: OpenCV's: IMREAD_COLOR for BGR (H, W, 3) uint8, IMREAD_UNCHANGED for what is stored.
        upright: Turn it as its EXIF orientation says.

    Raises:
        CutShortError: if pixels are missing.
        ImageError: if it is empty, damaged or of an unknown format.
    """
    data = np.frombuffer(data, np.uint8)
    if not data.size:
        raise ImageError('empty')
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    if data[: len(JPEG)].tobytes() == JPEG:
        image = _decode_jpeg(data, flags)
    elif data[: len(PNG)].tobytes() == PNG and b'IEND' not in (kind for kind, *_ in _chunks(data)):
        image = _decode(_joined(data, _IEND), flags)
        if image is None:
            raise CutShortError('cut short')
    else:
        image = _decode(data, flags)
    if image is None:
        raise ImageError('neither JPEG nor PNG, or damaged')
    return turned(image, orientation(data)) if upright else image


def picture_size(data: Any, *, upright: bool = False) -> tuple[int, int]:
    """Return width and height of a JPEG or PNG picture, from its header alone.

    Args:
        data: The bytes.
        upright: Turn it as its EXIF orientation says.

    Raises:
        ImageError: if there is no such header.
    """
    data = np.frombuffer(data, np.uint8)
    width = height = 0
    if data[: len(PNG)].tobytes() == PNG and data.size >= 24:
        width, height = _number(data, 16, 4), _number(data, 20, 4)
    elif data[: len(JPEG)].tobytes() == JPEG:
        for kind, at in _segments(data):
            if kind in _FRAME_HEADERS and at + 7 <= data.size:
                height, width = _number(data, at + 3, 2), _number(data, at + 5, 2)
                break
    if not width or not height:
        raise ImageError('no header of a JPEG or PNG picture')
    return (height, width) if upright and orientation(data) > 4 else (width, height)


def orientation(data: Any) -> int:
    """Return the EXIF orientation of a JPEG or PNG picture, 1 to 8; 1 where it has none."""
    data = np.frombuffer(data, np.uint8)
    if data[: len(JPEG)].tobytes() == JPEG:
        for kind, at in _segments(data):
            if kind == _SCAN:
                break
            if kind == _APP1 and data[at + 2 : at + 8].tobytes() == b'Exif\0\0':
                return _tiff_orientation(data[at + 8 : at + _number(data, at, 2)])
    elif data[: len(PNG)].tobytes() == PNG:
        for kind, at, length in _chunks(data):
            if kind == b'eXIf':
                return _tiff_orientation(data[at : at + length])
    return 1


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels (H, W, ...) as somebody sees them; `orientation` is EXIF's, 1 to 8."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


_EOI, _IEND = b'\xff\xd9', b'\0\0\0\0IEND\xaeB`\x82'
_SCAN, _APP1 = 0xDA, 0xE1
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# In a scan, 0xFF is followed by 0x00 (data) or 0xD0 to 0xD7 (a restart), or it begins a marker.
_MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')
# Data that a decoder takes only where some of its own is missing, with restarts.
_MORE = b''.join(64 * b'\x5a' + bytes((0xFF, 0xD0 + number)) for number in (*range(8), 0))


def _number(data: np.ndarray, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length].tobytes(), 'big')


def _segments(data: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG's first picture, each with the index of what follows it."""
    at = len(JPEG)
    while found := _MARKER.search(data, at):  # pyright: ignore[reportCallIssue, reportArgumentType]
        at = found.end()
        kind = int(data[at - 1])
        yield kind, at
        if kind in (0xD8, 0xD9):  # another picture, or the end
            return
        if kind != 0x01:
            at += _number(data, at, 2)


def _jpeg_end(data: np.ndarray) -> tuple[int, bool]:
    """Return where the scans of a JPEG's first picture end, and whether by an end marker."""
    scans = 0
    for kind, at in _segments(data):
        scans += kind == _SCAN
        if kind in (0xD8, 0xD9):
            return at - 2, kind == 0xD9 and scans > 0
    return data.size, False


def _chunks(data: np.ndarray) -> Iterator[tuple[bytes, int, int]]:
    """Yield a PNG's chunks that are whole: type, where its content begins, and its length."""
    at = len(PNG)
    while at + 12 <= data.size:
        length, kind = _number(data, at, 4), data[at + 4 : at + 8].tobytes()
        if at + 12 + length > data.size:
            return
        yield kind, at + 8, length
        at += 12 + length


def _decode(data: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageError(f'not decoded: {error}') from error


def _decode_jpeg(data: np.ndarray, flags: int) -> np.ndarray | None:
    end, marked = _jpeg_end(data)
    if marked:
        image = _decode(data, flags)
        if image is None or not _is_grey(image):
            return image
    kept = data[:end].tobytes()
    if not marked:
        # Zeros behind it are padding, but the last pixels may have one or two bytes of them.
        kept = kept[: len(kept.rstrip(b'\0')) + 2]
        image = _decode(_joined(kept, _EOI), flags)
    # libjpeg does not tell whether data was missing. With more of it behind its own, a whole
    # picture stays as it is; one that lacks some takes it.
    more = _decode(_joined(kept, _MORE, _EOI), flags)
    if image is None or more is None or not np.array_equal(more, image):
        raise CutShortError('cut short')
    return image


def _joined(*parts: Any) -> np.ndarray:
    return np.frombuffer(b''.join(bytes(part) for part in parts), np.uint8)


def _is_grey(image: np.ndarray) -> bool:
    """Tell whether a picture ends as libjpeg fills what is missing."""
    return image.dtype == np.uint8 and bool((image[-1, -1] == 128).all())


def _tiff_orientation(data: np.ndarray) -> int:
    """Return the orientation in the TIFF data of EXIF; 1 where there is none, or none that is."""
    content = data.tobytes()
    order = {b'II*\0': 'little', b'MM\0*': 'big'}.get(content[:4])
    if order is None:
        return 1

    def number(at: int, length: int) -> int:
        return int.from_bytes(content[at : at + length], order)  # pyright: ignore[reportArgumentType]

    entries = number(4, 4)
    for at in range(entries + 2, entries + 2 + 12 * number(entries, 2), 12):
        if number(at, 2) == 0x0112:
            found = number(at + 8, 2)
            return found if 1 <= found <= 8 else 1
    return 1
