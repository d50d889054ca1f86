"""KITTI raw as it is published: the images of a split, and their ground truth."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from depth_ros.core.camera import Intrinsics
from train.data.sequences import DataError, read_map
from train.data.velodyne import project_velodyne, raw_projection, read_calibration, read_points, row
from train.evaluation.frames import EvaluatedFrame, camera_of, image_fit
from train.evaluation.predict import Predictor

CAMERA_HEIGHT = 1.65
"""Metres of KITTI's cameras over the road (Geiger et al. 2012, figure of the sensors)."""


def kitti_frames(
    root: Path,
    split: Path | None,
    truth_kind: str,
    predictor: Predictor,
    notes: list[str],
    mode: str = 'auto',
) -> list[EvaluatedFrame]:
    """The frames of a split; what is missing on disk goes to ``notes``.

    Args:
        root: folder of KITTI raw, with folders by date.
        split: list of images, see :func:`read_split`.
        truth_kind: 'classic', the Velodyne's points; or 'improved', the maps of Uhrig et al.
        predictor: the model to be judged, for the factor of its depth.
        notes: receives a note on what is missing.
        mode: how images are fitted to the network, see :func:`train.evaluation.frames.image_fit`.

    Raises:
        DataError: if the list or the calibration cannot be read, or nothing in the list is there.
    """
    if split is None:
        raise DataError('--kitti needs --split: a list of the images to judge')
    names = read_split(split)
    cameras: dict[tuple[str, int], tuple[np.ndarray, tuple[int, int], Intrinsics | None]] = {}
    frames, missing = [], []
    for date, drive, number, camera in names:
        folder = root / date / drive
        image = next(
            (
                f
                for suffix in ('png', 'jpg')
                if (f := folder / f'image_{camera:02d}' / 'data' / f'{number}.{suffix}').exists()
            ),
            None,
        )
        truth = _kitti_truth(root, truth_kind, folder, number, camera)
        if image is None or truth is None:
            missing.append(f'{date}/{drive} {number}')
            continue
        if (date, camera) not in cameras:
            cameras[date, camera] = _kitti_camera(root / date, camera)
        projection, shape, lens = cameras[date, camera]
        fit = image_fit(lens, predictor.camera, mode)
        read = (
            partial(read_map, truth, 1 / 256)
            if truth_kind == 'improved'
            else partial(_read_velodyne, truth, projection, shape)
        )
        frames.append(
            EvaluatedFrame(
                drive,
                f'{number}_{camera}',
                image,
                read,
                None,
                1.0 if fit is None else fit.depth_factor,
                camera=lens,
                camera_height=CAMERA_HEIGHT,
                fit=fit,
            )
        )
    if not frames:
        raise DataError(
            f"none of the {len(names)} images in '{split}' is under "
            f"'{root}' with {truth_kind} ground truth, such as {missing[0]}: "
            'expected folders date/drive/image_02/data'
        )
    if missing:
        notes.append(
            f'{len(missing)} of {len(names)} listed images lack the image or '
            f'{truth_kind} ground truth, such as {missing[0]}'
        )
    return frames


def read_split(path: Path) -> list[tuple[str, str, str, int]]:
    """Date, drive, frame and camera of each line of a list of KITTI raw images.

    Lines are ``date/drive frame l`` (or ``r``), or ``date/drive/image_02/data/frame.png``.

    Raises:
        DataError: if the file cannot be read or a line is neither.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list '{path}': {error}") from error
    names = []
    for line in lines:
        found = re.fullmatch(r'(\w+)/(\w+)\s+(\d+)\s+([lr])', line) or re.fullmatch(
            r'(\w+)/(\w+)/image_0(?P<camera>[23])/data/(\d+)\.\w+', line
        )
        if found is None:
            raise DataError(
                f"'{path}': cannot understand '{line}'; expected 'date/drive frame l' "
                "or 'date/drive/image_02/data/frame.png'"
            )
        date, drive, a, b = found.groups()
        number, camera = (b, int(a)) if 'camera' in found.groupdict() else (a, '  lr'.index(b))
        names.append((date, drive, f'{int(number):010d}', camera))
    if not names:
        raise DataError(f"the list '{path}' is empty")
    return names


def _kitti_truth(
    root: Path, truth_kind: str, folder: Path, number: str, camera: int
) -> Path | None:
    """File of the ground truth, if it is there."""
    if truth_kind == 'classic':
        files = [folder / 'velodyne_points' / 'data' / f'{number}.bin']
    else:
        inner = Path('proj_depth', 'groundtruth', f'image_{camera:02d}', f'{number}.png')
        files = [
            drive / inner
            for drive in (
                folder,
                root / 'train' / folder.name,
                root / 'val' / folder.name,
            )
        ]
    return next((f for f in files if f.exists()), None)


def _kitti_camera(date: Path, camera: int) -> tuple[np.ndarray, tuple[int, int], Intrinsics | None]:
    """Velodyne to pixels (3, 4), (height, width) of the image, and its camera."""
    path = date / 'calib_cam_to_cam.txt'
    rows = read_calibration(path)
    width, height = row(rows, f'S_rect_{camera:02d}', path).astype(int)
    intrinsics = row(rows, f'P_rect_{camera:02d}', path).reshape(3, 4)[:, :3]
    return (
        raw_projection(date, camera),
        (height, width),
        camera_of(intrinsics, (width, height)),
    )


def _read_velodyne(path: Path, projection: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return project_velodyne(read_points(path), projection, shape, 'eigen')
