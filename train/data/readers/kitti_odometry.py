"""KITTI odometry (Geiger et al.), laid out as published."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from depth_ros.core.se3 import inverse
from depth_ros.files import natural
from train.data.kitti import CAMERAS, DEPTH_SCALE, camera_offset, velodyne_depth
from train.data.pictures import common_size
from train.data.reader import Found, Option, Reader, found
from train.data.sequences import DataError, Sequence, check_camera, read_poses, read_sequence
from train.data.source import Source, files
from train.data.velodyne import file_projection, read_calibration, row


class KittiOdometryReader(Reader):
    """The sequences of KITTI odometry."""

    name = 'kitti_odometry'
    summary = """folder with sequences/NN and poses/NN.txt, as published; some of them:
--sequences 00 01"""
    options = (
        CAMERAS,
        Option(
            '--sequences',
            nargs='+',
            metavar='NN',
            help='which (all); published results train on 00 to 08 and test on 09 and 10',
        ),
    )

    def recognises(self, path: Path) -> bool:
        """Tell whether a folder holds sequences of KITTI odometry."""
        return path.is_dir() and any(path.glob('sequences/*/calib.txt'))

    def find(self, paths: list[Path], args: argparse.Namespace) -> tuple[list[Found], list[str]]:
        """Return the sequences in some folders."""
        sources = [(odometry_sources(p, args.cameras, args.sequences), p) for p in paths]
        return [f for some, path in sources for f in found(some, path)], []

    def chosen(self, args: argparse.Namespace) -> bool:
        """Keep every frame, as the published results do."""
        return True


def odometry_sources(
    root: Path, cameras: Collection[int] | None = None, sequences: Collection[str] | None = None
) -> list[Source]:
    """Read the sequences of KITTI odometry, `sequences/NN` with `poses/NN.txt`.

    Args:
        root: Folder that holds `sequences/` and, for ground truth, `poses/`.
        cameras: Numbers 0 to 3; None: 2 (colour) where there is one, or else 0 (grey).
        sequences: Names, such as '09'; None: all of them.

    Raises:
        DataError: if there are none, one is incomplete, or one that is asked for is not there.
    """
    folders = {p.name: p for p in sorted(root.glob('sequences/*'), key=natural) if p.is_dir()}
    if folders and (unknown := sorted(set(sequences or ()) - folders.keys())):
        raise DataError(
            f"--sequences: '{root}' has no {', '.join(unknown)}, but " + ', '.join(folders)
        )
    sources = []
    for name, folder in folders.items():
        if sequences and name not in sequences:
            continue
        wanted = cameras or [next((c for c in (2, 0) if (folder / f'image_{c}').is_dir()), 0)]
        for camera in wanted:
            if not (folder / f'image_{camera}').is_dir():
                continue
            sequence = read_sequence(folder, f'image_{camera}')
            several = '' if len(wanted) == 1 else f'_{camera}'
            sources.append(_source(root, sequence, camera, several))
    if not sources:
        raise DataError(
            f"'{root}' has no sequences/NN/image_2 or image_0: expected KITTI odometry as published"
        )
    return sources


def _source(root: Path, sequence: Sequence, camera: int, suffix: str) -> Source:
    """Read what belongs to one camera of a sequence; `suffix` is added to its name."""
    folder, paths = sequence.folder, list(sequence.images)
    calibration = folder / 'calib.txt'
    path = root / 'poses' / f'{folder.name}.txt'
    poses = None
    if path.exists():
        # The file has the poses of camera 0: T_world_c = T_world_0 T_0_c.
        projection = row(read_calibration(calibration), f'P{camera}', calibration).reshape(3, 4)
        poses = read_poses(path, len(paths)) @ inverse(camera_offset(projection))
        poses = inverse(poses[0]) @ poses
    size = common_size(paths)
    warnings = check_camera(sequence.intrinsics, size, str(folder))
    depth = velodyne_depth(
        folder / 'velodyne', paths, size, lambda: file_projection(calibration, camera)
    )
    return Source(
        folder.name + suffix,
        [p.stem for p in paths],
        size,
        sequence.intrinsics,
        files(paths),
        sequence.times,
        poses,
        depth=depth,
        depth_scale=DEPTH_SCALE,
        warnings=tuple(warnings),
    )
