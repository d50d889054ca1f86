"""The images of a recording or of a folder, to calibrate and compare networks with."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from pathlib import Path
from typing import Any

import cv2

from depth_ros.bags.files import is_recording
from depth_ros.bags.messages import Message
from depth_ros.bags.reader import Bag
from depth_ros.bags.recorded_camera import RecordedCamera
from depth_ros.bags.topics import Streams, find_streams
from depth_ros.core.pictures import ImageError, decode_picture
from depth_ros.evaluation.runner import RecordedImage, decode_ahead
from depth_ros.files import natural
from depth_ros.inference.contract import ModelContract
from depth_ros.inference.engine import EngineError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
"""Suffixes of a folder's files that are images."""

CALIBRATION_IMAGES, HELD_OUT_IMAGES = 32, 60
"""Default for how many images calibrate a network, and how many judge it, at most."""

FOLDER_PERIOD = 10**8
"""Assumed time between two images of a folder, ns."""

IndexedImages = Iterator[tuple[int, RecordedImage | Exception, Any]]
"""Images with their indices and CameraInfo; an error in place of one that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to compare two engines on.

    Attributes:
        path: a recording, or a folder of images, which are taken in the order of their names.
        only: indices of the images to use, from 0, ascending, at least one; `None` for all. If
            there are gaps, a pose network gets the pairs of neighbours among them, and no
            trajectory is judged.
        topics: topics of a recording, by the names of `find_streams`' arguments.
        classes: what true class ids mean, see `ClassMap.read`.
    """

    path: Path
    only: Sequence[int] | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    classes: str | None = 'cityscapes'

    @property
    def end(self) -> int | None:
        """One more than the last index; `None` for all."""
        return None if self.only is None else self.only[-1] + 1

    @property
    def in_a_row(self) -> bool:
        """Whether there is no gap between them."""
        return self.only is None or len(self.only) == self.only[-1] + 1 - self.only[0]


@dataclass(frozen=True)
class _Region:
    """The region of interest of a CameraInfo message: the whole image."""

    x_offset: int = 0
    y_offset: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class _CameraInfo:
    """What is used of a CameraInfo message, for images that come without one."""

    width: int
    height: int
    k: Sequence[float]
    p: Sequence[float] = (0.0,) * 12
    roi: _Region = _Region()


def open_images(
    images: Images, contract: ModelContract, stack: ExitStack, pool: Executor
) -> tuple[int, IndexedImages, tuple[Bag, Streams] | None]:
    """Open images until ``stack`` closes.

    Returns:
        How many are to be used; each with its index and CameraInfo; and the recording if they are
        of one.

    Raises:
        EngineError, BagError: if there are none, or they cannot be read.
    """
    total = count_images(images.path, images.topics)
    number = total if images.only is None else bisect_left(images.only, total)
    if _is_folder(images.path):
        return number, _from_folder(images, contract), None
    bag = stack.enter_context(Bag(images.path))
    streams = find_streams(bag, **images.topics)
    return number, _from_recording(bag, streams, images, pool), (bag, streams)


def count_images(path: Path, topics: Mapping[str, str]) -> int:
    """How many images a recording or a folder has.

    Args:
        path, topics: see :class:`Images`.

    Raises:
        EngineError, BagError: if there are none, or they cannot be read.
    """
    if _is_folder(path):
        return len(_files(path))
    with Bag(path) as bag:
        return bag.topics[find_streams(bag, **topics).image].count


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder of images, not one of a recording, which has certain files."""
    return path.is_dir() and not is_recording(path)


def _files(folder: Path) -> list[Path]:
    files = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != '.'),
        key=natural,
    )
    if not files:
        raise EngineError(
            f"folder '{folder}' has no image ({', '.join(SUFFIXES)}) and is no "
            'recording; give a folder of images, or a recording'
        )
    return files


def _from_folder(images: Images, contract: ModelContract) -> IndexedImages:
    """Images of a folder, as if taken with the training camera."""
    model = contract.camera

    for index, path in enumerate(_files(images.path)[: images.end]):
        if images.only is not None and index not in images.only:
            continue
        try:
            image = decode_picture(path.read_bytes(), upright=True)
        except (OSError, ImageError):
            yield index, ImageError(f"'{path}' cannot be read as an image"), None
            continue
        height, width = image.shape[:2]
        camera = model.resized(width, height)
        matrix = camera.matrix.ravel().tolist()
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        yield (
            index,
            RecordedImage(index * FOLDER_PERIOD, 'camera', rgb),
            _CameraInfo(width=width, height=height, k=matrix),
        )


def _from_recording(bag: Bag, streams: Streams, images: Images, pool: Executor) -> IndexedImages:
    """Images of a recording, rectified, each with its camera_info.

    Images that are not used are not decoded.
    """
    camera = RecordedCamera(bag, streams)
    taken: deque[tuple[int, Message, int]] = deque()

    def messages() -> Iterator[Message]:
        indices = count_from(0)
        for message in bag.messages([streams.image, streams.camera_info]):
            if message.topic == streams.camera_info:
                camera.read(message)
                continue
            index = next(indices)
            if images.only is None or index in images.only:
                taken.append((index, message, camera.seen))
                yield message
            if index + 1 == images.end:
                return

    for _, picture in decode_ahead(messages(), pool):
        index, message, seen = taken.popleft()
        info = None
        if isinstance(picture, RecordedImage):
            info = camera.info(message, seen, picture.rgb.shape[1::-1])
            picture = replace(picture, rgb=camera.rectify(picture.rgb, info, streams.image))
        yield index, picture, info
