"""Writing files of sequences: several at a time, each whole or not at all."""

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
"""Number of tasks that are started before the result of the first is taken."""

T = TypeVar('T')


def in_order(
    tasks: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Callable[[], T]]]:
    """Run tasks in a pool, few at a time (:data:`AHEAD`).

    Yields:
        In the order of the tasks, each index with a function that returns the task's result.
    """
    waiting: deque[tuple[int, Future[T]]] = deque()
    for index, task in tasks:
        waiting.append((index, pool.submit(task)))
        if len(waiting) > AHEAD:
            index, future = waiting.popleft()
            yield index, future.result
    for index, future in waiting:
        yield index, future.result


def save(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> bytes:
    """Write an image file, whole or not at all.

    Args:
        path: File to write; its suffix chooses the format.
        image: Pixels, BGR (H, W, 3) or a map (H, W).
        jpeg_quality: Quality of a .jpg file, 0 to 100.

    Returns:
        The bytes of the file.

    Raises:
        DataError: if the image cannot be encoded.
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
