"""KITTI raw data (Geiger et al.), synced and rectified, laid out as published."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from depth_ros.core.se3 import inverse
from train.data.kitti import CAMERAS, DEPTH_SCALE, camera_offset, velodyne_depth
from train.data.pictures import common_size, find_images
from train.data.reader import Found, Option, Reader, found
from train.data.sequences import DataError, check_camera
from train.data.source import REACH, Source, files
from train.data.velodyne import raw_projection, read_calibration, rigid, row

EARTH_RADIUS = 6378137.0

_LISTED = (
    # folder, frame, side in lists of monodepth2 and FSRE-Depth; paths in SfMLearner's test list
    re.compile(
        r'\S*?(?P<drive>\d{4}_\d\d_\d\d_drive_\d{4}_sync)/?\s+(?P<frame>\d+)'
        r'(?:\s+(?P<side>[lr]))?\s*$'
    ),
    re.compile(
        r'\S*?(?P<drive>\d{4}_\d\d_\d\d_drive_\d{4}_sync)/image_(?P<camera>0[23])/data/'
        r'(?P<frame>\d+)\.\w+'
    ),
)


class KittiRawReader(Reader):
    """The drives of KITTI raw."""

    name = 'kitti_raw'
    summary = """folder with DATE/DATE_drive_NNNN_sync and DATE/calib_*.txt, as published.
Which frames: --split LIST --val-split LIST ("folder frame l", as monodepth2 and
FSRE-Depth publish the Eigen-Zhou split); or --test-scenes and --static-frames
with the lists that SfMLearner publishes, divided at random as it does."""
    options = (
        CAMERAS,
        Option('--split', type=Path, help='list of target frames'),
        Option('--val-split', type=Path, help='likewise, for OUT/val'),
        Option('--test-scenes', type=Path, help='list of drives to leave out'),
        Option('--static-frames', type=Path, help='list of frames to leave out'),
    )

    def recognises(self, path: Path) -> bool:
        """Tell whether a folder holds drives of KITTI raw."""
        return path.is_dir() and any(path.glob('*/*_drive_*_sync'))

    def find(self, paths: list[Path], args: argparse.Namespace) -> tuple[list[Found], list[str]]:
        """Return the drives in some folders, once for each camera."""
        everything, notes = [], []
        for path in paths:
            sources, remarks = raw_sources(
                path, args.cameras or (2, 3), args.split, args.test_scenes, args.static_frames
            )
            everything += found(sources, path)
            notes += remarks
        return everything, notes

    def contradiction(self, args: argparse.Namespace) -> str:
        """Say which lists contradict each other or other options."""
        if args.shares and args.split:
            return '--shares divides into train, val and test: leave out --part and --split'
        if args.val_split and not (args.split and args.part == 'both'):
            return '--val-split is for both parts, and needs --split for OUT/train'
        if args.split and (args.test_scenes or args.static_frames):
            return (
                '--split says which frames; --test-scenes and --static-frames are for '
                'another division: give one or the other'
            )
        return ''

    def chosen(self, args: argparse.Namespace) -> bool:
        """Tell whether a list chooses the frames."""
        return bool(args.split or args.static_frames)

    def data_sets(self, args: argparse.Namespace) -> Iterator[argparse.Namespace]:
        """Yield the arguments of one data set, or of OUT/train and OUT/val by a list each."""
        if not args.val_split:
            yield args
            return
        for part, split in (('train', args.split), ('val', args.val_split)):
            changes = {'out': args.out / part, 'part': 'all', 'val_split': None, 'split': split}
            yield argparse.Namespace(**{**vars(args), **changes})


def raw_sources(
    root: Path,
    cameras: Collection[int] = (2, 3),
    split: Path | None = None,
    test_scenes: Path | None = None,
    static_frames: Path | None = None,
) -> tuple[list[Source], list[str]]:
    """Read the drives of KITTI raw, `DATE/DATE_drive_NNNN_sync`, once for each camera.

    Args:
        root: Folder of the dates' folders.
        cameras: Numbers 0 to 3; 2 and 3 are the colour cameras.
        split: List of targets as monodepth2 and FSRE-Depth publish it for the Eigen-Zhou split
            ("folder frame l" for camera 2, "... r" for camera 3), or of paths of images. Only
            these become targets, and only these and their neighbours are read.
        test_scenes: List of drives to leave out, as SfMLearner publishes it.
        static_frames: List of frames to leave out ("date drive frame"), as SfMLearner publishes
            it. The frames around a gap count as successive, as they do there.

    Returns:
        The sources, and remarks on what the lists name and the folder lacks.

    Raises:
        DataError: if nothing is left, a file is missing, or a list has another format.
    """
    drives = sorted(p for p in root.glob('*/*_drive_*_sync') if p.is_dir())
    if not drives:
        raise DataError(
            f"'{root}' holds no DATE/DATE_drive_NNNN_sync folders: expected KITTI raw "
            'data (synced and rectified) as published'
        )
    left_out = {name.removesuffix('_sync') for name in _lines(test_scenes)}
    static = _read_static(static_frames)
    listed = None if split is None else _read_split(split)
    sources, notes = [], []
    missing = 0
    for drive in drives:
        if drive.name.removesuffix('_sync') in left_out:
            continue
        for camera in cameras:
            paths = _images(drive / f'image_{camera:02d}' / 'data')
            targets = None if listed is None else listed.pop((drive.name, camera), set())
            if not paths or (targets is not None and not targets):
                missing += len(targets or ())
                continue
            numbers = np.array([int(p.stem) for p in paths])
            if targets is None:
                still = static.get(drive.name.removesuffix('_sync'), set())
                wanted = ~np.isin(numbers, sorted(still))
            else:
                missing += len(targets - set(numbers.tolist()))
                chosen = np.isin(numbers, sorted(targets))
                near = numbers[chosen, None] + np.arange(-REACH, REACH + 1)
                wanted = np.isin(numbers, near)
            if not wanted.any():
                continue
            source = _source(drive, camera, [paths[i] for i in np.flatnonzero(wanted)])
            if targets is not None:
                source = replace(source, numbers=numbers[wanted], targets=chosen[wanted])
            sources.append(source)
    if listed is not None:
        missing += sum(map(len, listed.values()))
        if missing:
            notes.append(f"{missing} frames of '{split}' are not in '{root}'")
    if not sources:
        raise DataError(
            f"'{root}' holds no images that the lists ask for" + (f' ({notes[0]})' if notes else '')
        )
    return sources, notes


def _source(drive: Path, camera: int, paths: list[Path]) -> Source:
    """Read what belongs to some pictures of a drive."""
    date = drive.parent
    calibration = date / 'calib_cam_to_cam.txt'
    rows = read_calibration(calibration)
    projection = row(rows, f'P_rect_{camera:02d}', calibration).reshape(3, 4)
    numbers = tuple(int(p.stem) for p in paths)
    times = _timestamps(drive / f'image_{camera:02d}' / 'timestamps.txt', numbers)
    poses, speeds = _oxts(drive, numbers) or (None, None)
    imu_camera = _camera_in_imu(date, projection)
    if poses is not None:
        poses = None if imu_camera is None else inverse(poses[0] @ imu_camera) @ poses @ imu_camera
    size = common_size(paths)
    warnings = check_camera(projection[:, :3], size, str(drive))
    depth = velodyne_depth(
        drive / 'velodyne_points' / 'data',
        paths,
        size,
        lambda: raw_projection(date, camera),
    )
    return Source(
        f'{drive.name}_{camera:02d}',
        [p.stem for p in paths],
        size,
        projection[:, :3],
        files(paths),
        times,
        poses,
        speeds=speeds,
        depth=depth,
        depth_scale=DEPTH_SCALE,
        warnings=tuple(warnings),
    )


def _timestamps(path: Path, numbers: tuple[int, ...]) -> np.ndarray | None:
    """Return the time of each frame in seconds; None without the file."""
    if not path.exists():
        return None
    try:
        stamps = np.array(
            [line.strip().replace(' ', 'T') for line in path.open() if line.strip()],
            'datetime64[ns]',
        )
        return stamps[list(numbers)].astype(np.int64) * 1e-9
    except (ValueError, IndexError) as error:
        raise DataError(f"'{path}' does not hold the time of each image ({error})") from error


def _camera_in_imu(date: Path, projection: np.ndarray) -> np.ndarray | None:
    """Return T_imu_camera (4, 4) of a rectified camera; None without the calibration files."""
    imu, velo = date / 'calib_imu_to_velo.txt', date / 'calib_velo_to_cam.txt'
    if not (imu.exists() and velo.exists()):
        return None
    path = date / 'calib_cam_to_cam.txt'
    rectify = np.eye(4)
    rectify[:3, :3] = row(read_calibration(path), 'R_rect_00', path).reshape(3, 3)
    return inverse(
        camera_offset(projection)
        @ rectify
        @ rigid(read_calibration(velo), velo)
        @ rigid(read_calibration(imu), imu)
    )


@lru_cache(maxsize=1)  # a drive's cameras have the same
def _oxts(drive: Path, numbers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the poses (N, 4, 4), in metres, and speeds (N,), in m/s, of the inertial unit.

    The world is Mercator's projection at the first frame's latitude, as in KITTI's devkit.
    """
    found = [drive / 'oxts' / 'data' / f'{n:010d}.txt' for n in numbers]
    if not all(p.exists() for p in found):
        return None
    try:
        values = np.array([p.read_text().split()[:11] for p in found], float).reshape(-1, 11)
    except ValueError as error:
        raise DataError(f"'{drive / 'oxts'}' has a file without numbers ({error})") from error
    latitude, longitude, altitude, roll, pitch, yaw = values[:, :6].T
    scale = np.cos(np.radians(latitude[0])) * EARTH_RADIUS
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, 0, 3] = scale * np.radians(longitude)
    poses[:, 1, 3] = scale * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    poses[:, 2, 3] = altitude
    poses[:, :3, :3] = Rotation.from_euler('ZYX', np.stack([yaw, pitch, roll], 1)).as_matrix()
    return poses, np.linalg.norm(values[:, 8:11], axis=1)  # forward, left, up


def _images(folder: Path) -> list[Path]:
    """Return the pictures in a folder; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return [p for p in find_images(folder) if p.stem.isdigit()]


def _lines(path: Path | None) -> Iterator[str]:
    """Yield the lines of a list that are not empty; none without a list."""
    if path is None:
        return
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list '{path}': {error}") from error
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _read_split(path: Path) -> dict[tuple[str, int], set[int]]:
    """Return the frame numbers in a list of targets, by drive and camera."""
    found: dict[tuple[str, int], set[int]] = {}
    for number, line in enumerate(_lines(path), 1):
        match = _LISTED[0].match(line) or _LISTED[1].match(line)
        if match is None:
            raise DataError(
                f"'{path}', line {number}: expected 'DATE/DATE_drive_NNNN_sync FRAME "
                f"l' or a path of an image, is {line[:80]!r}"
            )
        fields = match.groupdict()
        camera = int(fields.get('camera') or (3 if fields.get('side') == 'r' else 2))
        found.setdefault((fields['drive'], camera), set()).add(int(fields['frame']))
    return found


def _read_static(path: Path | None) -> dict[str, set[int]]:
    """Return the frame numbers in a list of static frames, by drive without `_sync`."""
    found: dict[str, set[int]] = {}
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if len(fields) != 3 or not fields[2].isdigit():
            raise DataError(
                f"'{path}', line {number}: expected 'DATE DRIVE FRAME', is {line[:80]!r}"
            )
        found.setdefault(fields[1].removesuffix('_sync'), set()).add(int(fields[2]))
    return found
