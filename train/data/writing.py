"""Files of sequences, each written whole or not at all, and many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from depth_ros.files import write_file
from train.data.sequences import DataError

AHEAD = 16
"""Tasks that are started before the result of the first is taken."""

T = TypeVar('T')


def in_order(
    tasks: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Callable[[], T]]]:
    """Run tasks in a pool, few at a time; yield in order each index and what returns its result."""
    waiting: deque[tuple[int, Future[T]]] = deque()
    for index, task in tasks:
        waiting.append((index, pool.submit(task)))
        if len(waiting) > AHEAD:
            index, future = waiting.popleft()
            yield index, future.result
    for index, future in waiting:
        yield index, future.result


def save(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> bytes:
    """Write an image file whole or not at all; return its bytes.

    Raises:
        DataError: The image cannot be encoded.
    """
    okay, data = cv2.imencode(
        path.suffix,
        image,
        [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        if path.suffix == '.jpg'
        else [cv2.IMWRITE_PNG_COMPRESSION, 3],
    )
    if not okay:
        raise DataError(f"cannot encode '{path}'")
    path.parent.mkdir(exist_ok=True)
    write_file(path, encoded := data.tobytes())
    return encoded
