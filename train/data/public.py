"""Converting public data sets: KITTI's single frames with lidar, and CamVid's labels.

Both become sequence folders (:mod:`train.data.sequences`) with links to the original images.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depth_ros.core.labels import UNLABELED
from train.data.pictures import IMAGE_SUFFIXES
from train.data.sequences import UNKNOWN, DataError, read_map, read_picture
from train.data.velodyne import project_velodyne, read_calibration, read_points, row

CAMVID = (10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18)
"""Cityscapes' trainId of each of CamVid's eleven classes: sky, building, pole, road, pavement,
tree, sign, fence, car, pedestrian, bicyclist."""
MILLIMETRES = 65535  # largest depth that 16 bits can hold, millimetres


def lidar_frames(source: Path, out: Path) -> int:
    """Write each frame of ``source`` as a sequence ``out/NAME`` of one image with its depth.

    Args:
        source: folder of frames of KITTI's object benchmark, each a folder with image.png
            (camera 2), velodyne.bin and calib.txt.
        out: data set to write.

    Returns:
        The number of frames.

    Raises:
        DataError: if there is no frame, or a file is missing or damaged.
    """
    folders = sorted(p.parent for p in source.glob('*/velodyne.bin'))
    if not folders:
        raise DataError(f"'{source}' has no folder with velodyne.bin")
    for folder in folders:
        _, depth, intrinsics = kitti_frame(folder)
        depth[depth * 1000 > MILLIMETRES] = 0
        there = out / folder.name
        _link(folder / 'image.png', there / 'images' / f'{folder.name}.png')
        _write_map(there / 'depth' / f'{folder.name}.png', np.rint(depth * 1000).astype(np.uint16))
        np.savetxt(there / 'intrinsics.txt', intrinsics, fmt='%.9g')
    return len(folders)


def kitti_frame(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a frame of KITTI's object benchmark.

    Args:
        folder: folder with image.png (camera 2), velodyne.bin and calib.txt, which needs the rows
            P2, R0_rect and Tr_velo_to_cam.

    Returns:
        BGR image uint8 (H, W, 3); depth float32 (H, W) along the optical axis, metres, 0 =
        unknown; and intrinsics (3, 3), pixels.
    """
    image = read_picture(folder / 'image.png')
    path = folder / 'calib.txt'
    rows = read_calibration(path)
    rectify, velo = np.eye(4), np.eye(4)
    rectify[:3, :3] = row(rows, 'R0_rect', path).reshape(3, 3)
    velo[:3] = row(rows, 'Tr_velo_to_cam', path).reshape(3, 4)
    camera = row(rows, 'P2', path).reshape(3, 4)
    points = read_points(folder / 'velodyne.bin')
    depth = project_velodyne(points, camera @ rectify @ velo, image.shape[:2], 'camera')
    return image, depth, camera[:, :3]


def camvid(source: Path, out: Path, as_cityscapes: bool) -> int:
    """Write a part of CamVid as a sequence.

    Args:
        source: folder with images/ and labels/ of 11 classes.
        out: sequence folder to write.
        as_cityscapes: whether to convert the labels to Cityscapes' trainIds, to train on them;
            otherwise they are copied, to judge by ``evaluate --classes camvid``.

    Returns:
        The number of frames.
    """
    table = np.full(256, UNLABELED, np.uint8)
    table[: len(CAMVID)] = CAMVID
    images = sorted(p for p in (source / 'images').iterdir() if p.suffix in IMAGE_SUFFIXES)
    for image in images:
        labels = read_map(source / 'labels' / f'{image.stem}.png', dtype=np.uint8)
        _link(image, out / 'images' / image.name)
        _write_map(
            out / 'semantics' / f'{image.stem}.png', table[labels] if as_cityscapes else labels
        )
    (out / 'intrinsics.txt').write_text(UNKNOWN + '\n')
    return len(images)


def _link(image: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(image.resolve())


def _write_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), values):
        raise OSError(f'cannot write {path}')
