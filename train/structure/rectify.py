"""Writing sequences again without the distortion of the lens that the reconstruction estimated."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from depth_ros.core.labels import UNLABELED
from depth_ros.evaluation.structure import Structure
from train.data.sequences import (
    MAPS,
    TABLES,
    Sequence,
    read_map,
    read_picture,
    resize_map,
    stored_size,
)
from train.data.writing import save
from train.structure.found import Lens

OTHERS = (*TABLES, 'depth_scale.txt', 'camera_height.txt')


def copy_sequence(sequence: Sequence, out: Path) -> None:
    """Copy a sequence folder: images, maps and tables."""
    (out / 'images').mkdir(parents=True)
    for path in sequence.images:
        shutil.copyfile(path, out / 'images' / path.name)
    for index in range(len(sequence.images)):
        for path in (sequence.depth_path(index), sequence.semantics_path(index)):
            if path.exists():
                (out / path.parent.name).mkdir(exist_ok=True)
                shutil.copyfile(path, out / path.parent.name / path.name)
    _copy_tables(sequence, out, sequence.intrinsics)


def rectify_sequence(
    sequence: Sequence, found: Structure, lens: Lens, out: Path, jpeg_quality: int = 95
) -> Structure:
    """Write a sequence folder with images and maps as a pinhole camera would have taken them.

    Args:
        sequence: the distorted sequence, whose images have one size.
        found: its structure.
        lens: lens of its images.
        out: folder to write to.
        jpeg_quality: quality of JPEG images, 0 to 100.

    Returns:
        The structure, with its points in pixels of the new images.
    """
    size = stored_size(sequence)
    assert size is not None  # else it could not have been reconstructed
    matrix, _ = cv2.getOptimalNewCameraMatrix(lens.matrix, lens.distortion, size, alpha=0)
    where = cv2.initUndistortRectifyMap(
        lens.matrix, lens.distortion, None, matrix, size, cv2.CV_32FC1
    )
    for path in sequence.images:
        picture = cv2.remap(read_picture(path), *where, cv2.INTER_CUBIC)
        (out / 'images').mkdir(parents=True, exist_ok=True)
        save(out / 'images' / path.name, picture, jpeg_quality)
        for kind, missing in (('depth', 0), ('semantics', UNLABELED)):
            source = sequence.folder / kind / f'{path.stem}.png'
            if source.exists():
                values = resize_map(read_map(source, dtype=MAPS[kind]), *size)
                new = cv2.remap(
                    values,
                    *where,
                    cv2.INTER_NEAREST,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=missing,
                )
                (out / kind).mkdir(exist_ok=True)
                save(out / kind / source.name, new)
    _copy_tables(sequence, out, matrix)
    return _rectified(found, lens, matrix, size)


def _copy_tables(sequence: Sequence, out: Path, intrinsics: np.ndarray) -> None:
    np.savetxt(out / 'intrinsics.txt', intrinsics, fmt='%.9g')
    for name in OTHERS:
        if (sequence.folder / name).exists():
            shutil.copyfile(sequence.folder / name, out / name)


def _rectified(
    found: Structure, lens: Lens, matrix: np.ndarray, size: tuple[int, int]
) -> Structure:
    """Move the points of a structure to where the new images show them.

    Args:
        found: the structure, in pixels of the distorted images.
        lens: lens of these images.
        matrix: (3, 3) intrinsics of the new images.
        size: width and height of the new images.

    Returns:
        The structure, without points that are outside of the new images.
    """
    xy = found.xy.astype(np.float64).reshape(-1, 1, 2)
    if len(xy):
        xy = cv2.undistortPoints(xy, lens.matrix, lens.distortion, P=matrix)
    xy = xy.reshape(-1, 2)
    inside = ((xy >= 0) & (xy <= np.array(size) - 1)).all(1)
    frame = np.repeat(np.arange(len(found)), np.diff(found.starts))[inside]
    return replace(
        found,
        starts=np.searchsorted(frame, np.arange(len(found) + 1)),
        xy=xy[inside].astype(np.float32),
        intrinsics=matrix,
        **{
            name: getattr(found, name)[inside]
            for name in ('depth', 'sigma', 'error', 'track', 'angle', 'point', 'held_out')
        },
    )
