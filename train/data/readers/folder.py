"""Folders of images, sequence folders and videos."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from train.data.hints import hint
from train.data.reader import Found, Option, Reader, found
from train.data.sequences import (
    IMAGE_SUFFIXES,
    DataError,
    Sequence,
    find_sequences,
    read_map,
    read_sequence,
)
from train.data.source import Map, Read, Source, files, first_size


class FolderReader(Reader):
    """Videos, folders of images, sequence folders."""

    name = 'folder'
    summary = """a video; a folder of images; or a sequence folder, or a folder of them, with
images/ and, where known, intrinsics.txt, times.txt, poses.txt, odometry.txt,
speed.txt, depth/, semantics/"""
    options = (
        Option(
            '--intrinsics',
            type=float,
            nargs=4,
            metavar=('FX', 'FY', 'CX', 'CY'),
            help='of the pictures as they are, pixels; where none are known, the training learns '
            'them',
        ),
    )

    def recognises(self, path: Path) -> bool:
        """Take whatever no other reader has recognised."""
        return True

    def find(self, paths: list[Path], args: argparse.Namespace) -> tuple[list[Found], list[str]]:
        """Return what lies at each path."""
        matrix = None
        if args.intrinsics:
            fx, fy, cx, cy = args.intrinsics
            matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        return [f for path in paths for f in found(folder_sources(path, matrix), path)], []


def folder_sources(path: Path, intrinsics: np.ndarray | None = None) -> list[Source]:
    """Read a video, a folder of images, a sequence folder, or a folder of sequence folders.

    Args:
        path: Any of these. `train.data.sequences` says what a sequence folder may hold.
        intrinsics: (3, 3) of the pictures, instead of those in the folder; where there are none
            at all, they are unknown.

    Raises:
        DataError: It is none of these, or incomplete.
    """
    if path.is_file():
        if known := hint(path):
            raise DataError(f"'{path}' is no video: {known}")
        return [_video(path, intrinsics)]
    if not path.is_dir():
        raise DataError(f"there is no video or folder '{path}': check the path")
    images = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if images:
        name = path.resolve()
        name = name.parent.name if name.name == 'images' else name.name
        return [
            Source(
                name,
                [p.stem for p in images],
                first_size(images),
                _or_unknown(intrinsics),
                files(images),
            )
        ]
    try:
        return [_source(read_sequence(path, calibrated=False), intrinsics)]
    except DataError:
        if not any(path.glob('*/images')):
            raise
    return [_source(s, intrinsics) for s in find_sequences(path, calibrated=False)]


def _or_unknown(intrinsics: np.ndarray | None) -> np.ndarray:
    return np.full((3, 3), np.nan) if intrinsics is None else intrinsics


def _source(sequence: Sequence, intrinsics: np.ndarray | None) -> Source:
    """Return a sequence folder as a source."""
    paths = list(sequence.images)
    frames = sequence.frames

    def maps(folder: str, scale: float) -> Map:
        def read(index: int) -> np.ndarray | None:
            path = sequence.folder / folder / f'{paths[index].stem}.png'
            return read_map(path, scale) if path.exists() else None

        return read

    return Source(
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


def _video(path: Path, intrinsics: np.ndarray | None) -> Source:
    """Return a video as a source.

    Raises:
        DataError: It cannot be read, or does not say its length and frame rate.
    """
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

    return Source(
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
