"""Folders of images, and videos, of anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from train.data.readers import Map, Read, Recording, files, first_size
from train.data.sequences import (
    IMAGE_SUFFIXES,
    DataError,
    Sequence,
    find_sequences,
    read_map,
    read_sequence,
)


def folder_recordings(path: Path, intrinsics: np.ndarray | None = None) -> list[Recording]:
    """A video, a folder of images, a sequence folder, or a folder of sequence folders.

    Args:
        path: any of these. What a sequence folder may hold, :mod:`train.data.sequences` says.
        intrinsics: (3, 3) of the pictures, instead of those in the folder; where there are none
            at all, they are unknown.

    Raises:
        DataError: if it is none of these, or incomplete.
    """
    if path.is_file():
        return [_video(path, intrinsics)]
    if not path.is_dir():
        raise DataError(f"there is no video or folder '{path}': check the path")
    images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if images:
        name = path.resolve()
        name = name.parent.name if name.name == 'images' else name.name
        return [
            Recording(
                name,
                [p.stem for p in images],
                first_size(images),
                _or_unknown(intrinsics),
                files(images),
            )
        ]
    try:
        return [_recording(read_sequence(path, calibrated=False), intrinsics)]
    except DataError:
        if not any(path.glob('*/images')):
            raise
    return [_recording(s, intrinsics) for s in find_sequences(path, calibrated=False)]


def _or_unknown(intrinsics: np.ndarray | None) -> np.ndarray:
    return np.full((3, 3), np.nan) if intrinsics is None else intrinsics


def _recording(sequence: Sequence, intrinsics: np.ndarray | None) -> Recording:
    paths = list(sequence.images)
    frames = sequence.frames

    def maps(folder: str, scale: float) -> Map:
        def read(index: int) -> np.ndarray | None:
            path = sequence.folder / folder / f'{paths[index].stem}.png'
            return read_map(path, scale) if path.exists() else None

        return read

    return Recording(
        sequence.folder.resolve().name,
        [p.stem for p in paths],
        first_size(paths),
        sequence.intrinsics if intrinsics is None else intrinsics,
        files(paths),
        sequence.times,
        sequence.poses,
        sequence.odometry,
        sequence.speeds,
        None if frames is None else frames[:, 0],
        None if frames is None else frames[:, 1] != 0,
        maps('depth', sequence.depth_scale),
        maps('semantics', 1.0),
        sequence.depth_scale,
    )


def _video(path: Path, intrinsics: np.ndarray | None) -> Recording:
    capture = cv2.VideoCapture(str(path))
    fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    okay, image = capture.read()
    capture.release()
    if not okay:
        raise DataError(f"'{path}' is no video that OpenCV can read: convert it to mp4 (H.264)")
    if not (0 < fps < 1000 and count > 0):
        raise DataError(f"video '{path}' does not say its length and frame rate: convert it to mp4")

    def pictures(wanted: Collection[int]) -> Iterator[tuple[int, Read]]:
        capture = cv2.VideoCapture(str(path))
        position = 0
        for index in wanted:
            while position <= index and capture.grab():
                position += 1
            picture = capture.retrieve()[1] if position > index else None
            yield index, partial(_decoded, picture, path, index)
        capture.release()

    return Recording(
        path.stem,
        [f'{n:06d}' for n in range(count)],
        image.shape[1::-1],
        _or_unknown(intrinsics),
        pictures,
        np.arange(count) / fps,
    )


def _decoded(picture: np.ndarray | None, path: Path, index: int) -> np.ndarray:
    if picture is None:
        raise DataError(f"video '{path}' has no readable frame {index}")
    return picture
