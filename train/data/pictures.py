"""Folders of pictures: which there are, in which order, of which size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from depth_ros.core.pictures import ImageError, orientation, picture_size
from depth_ros.files import natural

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
LOOKED_AT = 100  # pictures of a sequence, about, whose headers decide about its size
HEAD = 1 << 18  # bytes of a picture that hold its header


class DataError(ValueError):
    """The data on disk cannot be used; the message names the file and the remedy."""


def find_images(folder: Path) -> list[Path]:
    """The pictures in a folder, in their order in time; no hidden ones, as macOS leaves.

    Raises:
        DataError: if two have one stem, by which all files of a frame are known.
    """
    found = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != '.'),
        key=natural,
    )
    stems: dict[str, Path] = {}
    for path in found:
        other = stems.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"'{other}' and '{path.name}' have one name but for the suffix, and would be one "
                'frame: remove or rename one'
            )
    return found


def common_size(paths: Sequence[Path], *, upright: bool = False) -> tuple[int, int]:
    """Width and height that most of some pictures have, by their headers; of many, by a sample.

    Args:
        paths: the pictures.
        upright: turned by their EXIF orientation.

    Raises:
        DataError: if not one has a header.
    """
    found: Counter[tuple[int, int]] = Counter()
    for path in _sample(paths):
        with suppress(OSError, ImageError):
            found[_size(path, upright)] += 1
    if not found:
        raise DataError(f"not one of the {len(paths)} images in '{paths[0].parent}' can be read")
    return found.most_common(1)[0][0]


def _size(path: Path, upright: bool) -> tuple[int, int]:
    try:
        return picture_size(_head(path), upright=upright)
    except ImageError:  # a header with a large profile or thumbnail
        return picture_size(path.read_bytes(), upright=upright)


def count_turned(paths: Sequence[Path]) -> int:
    """How many of some pictures, of many a sample, have an EXIF orientation."""
    found = 0
    for path in _sample(paths):
        with suppress(OSError):
            found += orientation(_head(path)) != 1
    return found


def _sample(paths: Sequence[Path]) -> Sequence[Path]:
    return paths[:: max(1, len(paths) // LOOKED_AT)]


def _head(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(HEAD)


def number_jumps(paths: Sequence[Path]) -> list[str]:
    """Say where the numbers in pictures' names jump: the frames around are no neighbours."""
    numbers = [re.findall(r'[0-9]+(?:\.[0-9]+$)?', path.stem) for path in paths]
    if len(paths) < 3 or not all(numbers):
        return []
    steps = np.diff([float(found[-1]) for found in numbers])
    usual = float(np.median(steps))
    far = steps > 1.5 * usual
    if usual <= 0 or (steps <= 0).any() or not far.any():
        return []
    at = int(steps.argmax())
    return [
        f'the numbers of the pictures jump in {far.sum()} places, by most from {paths[at].name} to '
        f'{paths[at + 1].name}: pictures around a jump count as neighbours; if they are none, '
        'prepare the pieces apart'
    ]
