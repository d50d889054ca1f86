"""Folders of images, sequence folders and videos."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from train.data.hints import hint
from train.data.measured import cut_jumps
from train.data.pictures import common_size, count_turned, find_images, number_jumps
from train.data.reader import Found, Option, Reader, found
from train.data.sequences import (
    DataError,
    Sequence,
    check_camera,
    find_sequences,
    read_map,
    read_sequence,
)
from train.data.source import Map, Read, Source, files

MAX_PAUSE = 0.5
"""Seconds without a picture after which the next is no neighbour."""


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
        DataError: if it is none of these, or incomplete.
    """
    if path.is_file():
        if known := hint(path):
            raise DataError(f"'{path}' is no video: {known}")
        return [_video(path, intrinsics)]
    if not path.is_dir():
        raise DataError(f"there is no video or folder '{path}': check the path")
    if images := find_images(path):
        return [_pictures(path, images, _or_unknown(intrinsics))]
    try:
        return [_source(read_sequence(path, calibrated=False), intrinsics)]
    except DataError:
        if not any(path.glob('*/images')):
            raise
    return [_source(s, intrinsics) for s in find_sequences(path, calibrated=False)]


def _or_unknown(intrinsics: np.ndarray | None) -> np.ndarray:
    return np.full((3, 3), np.nan) if intrinsics is None else intrinsics


def _pictures(folder: Path, images: list[Path], intrinsics: np.ndarray) -> Source:
    """Return pictures that come alone, seen upright."""
    name = folder.resolve()
    name = name.parent.name if name.name == 'images' else name.name
    size = common_size(images, upright=True)
    turned = count_turned(images)
    return Source(
        name,
        [p.stem for p in images],
        size,
        intrinsics,
        files(images, upright=True),
        facts={'turned upright': 'by EXIF orientation'} if turned else {},
        warnings=(*check_camera(intrinsics, size, str(folder)), *number_jumps(images)),
    )


def _source(sequence: Sequence, intrinsics: np.ndarray | None) -> Source:
    """Return a sequence folder as a source."""
    paths = list(sequence.images)
    frames = sequence.frames

    def maps(folder: str, scale: float) -> Map:
        def read(index: int) -> np.ndarray | None:
            path = sequence.folder / folder / f'{paths[index].stem}.png'
            return read_map(path, scale) if path.exists() else None

        return read

    size = common_size(paths)
    matrix = sequence.intrinsics if intrinsics is None else intrinsics
    warnings = check_camera(matrix, size, str(sequence.folder))
    if frames is None and sequence.times is None:
        warnings += number_jumps(paths)
    if count_turned(paths):
        warnings.append(
            'pictures have an EXIF orientation, which is not followed: intrinsics, depth and '
            'labels are of the pixels as they are stored. If the pictures lie on their side, '
            f"prepare '{paths[0].parent}' itself: they are then turned upright"
        )
    odometry = sequence.odometry
    if odometry is not None:
        times = np.arange(len(paths)) / 10.0 if sequence.times is None else sequence.times
        odometry, remarks = cut_jumps(times, odometry)
        warnings += remarks
    return Source(
        sequence.folder.resolve().name,
        [p.stem for p in paths],
        size,
        matrix,
        files(paths),
        sequence.times,
        sequence.poses,
        odometry,
        sequence.speeds,
        None if frames is None else frames[:, 0],
        None if frames is None else frames[:, 1] != 0,
        maps('depth', sequence.depth_scale),
        maps('semantics', 1.0),
        sequence.depth_scale,
        warnings=tuple(warnings),
    )


def _video(path: Path, intrinsics: np.ndarray | None) -> Source:
    """Return a video as a source.

    Raises:
        DataError: if it cannot be read, or the intrinsics are impossible.
    """
    capture = cv2.VideoCapture(str(path))
    okay, image = capture.read()
    capture.release()
    if not okay:
        raise DataError(f"'{path}' is no video that OpenCV can read: convert it to mp4 (H.264)")
    times, warnings = _video_times(path)
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    pauses = steps > max(MAX_PAUSE, 3 * usual)
    if pauses.any():
        warnings.append(f'{pauses.sum()} pauses without pictures, the longest {steps.max():.1f} s')
    matrix, size = _or_unknown(intrinsics), image.shape[1::-1]
    warnings += check_camera(matrix, size, str(path))

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
        [f'{n:06d}' for n in range(len(times))],
        size,
        matrix,
        pictures,
        times,
        numbers=np.arange(len(times)) + np.concatenate([[0], np.cumsum(pauses)])
        if pauses.any()
        else None,
        facts={'rate': _rate(steps)} if len(steps) else {},
        warnings=tuple(warnings),
    )


def _video_times(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return when each frame is shown, seconds from the first, and remarks.

    Raises:
        DataError: if neither the frames nor the file say when.
    """
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS)
    shown = []
    while capture.grab():
        shown.append(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3)
    capture.release()
    times = np.array(shown) - shown[0]
    if (np.diff(times) > 0).all():
        return times, []
    if not 0 < fps < 1000:
        raise DataError(f"video '{path}' does not say when its frames are shown: convert it to mp4")
    remark = f'the film does not say when each frame is shown; taken as {fps:g} a second'
    return np.arange(len(times)) / fps, [remark]


def _rate(steps: np.ndarray) -> str:
    """Say how many frames a second a film has by its times between frames."""
    least, most = 1 / steps.max(), 1 / steps.min()
    if most < 1.2 * least:
        return f'{1 / steps.mean():.1f} Hz'
    return f'{least:.1f} to {most:.1f} Hz'


def _decoded(picture: np.ndarray | None, path: Path, index: int) -> np.ndarray:
    if picture is None:
        raise DataError(f"video '{path}' has no readable frame {index}")
    return picture
