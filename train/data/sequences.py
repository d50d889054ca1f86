"""Folders of consecutive images: the input of training and of recordings.

A sequence is a folder with ``images/`` (jpg or png; the names' order is the order in time, and
numbers in names count as numbers),
``intrinsics.txt`` (3x3, pixels of the images; or the word ``unknown``) and, where known,

- ``times.txt``: seconds, a row per frame;
- ``poses.txt``: a row of 3x4 camera-to-world per frame, metres; ground truth, for evaluation only;
- ``odometry.txt``: a row of 3x4 body-to-world per frame, metres, measured by wheels or GPS; rows of
  NaN where not measured. It gives the distances that metric training uses;
- ``speed.txt``: a row per frame, m/s or NaN. With ``times.txt`` it gives these distances, too;
- ``depth/``: 16-bit png of any size, millimetres along the optical axis, 0 = unknown;
- ``depth_scale.txt``: unit of the depth maps in metres, where it is not a millimetre;
- ``semantics/``: 8-bit png, class ids, 255 = ignore;
- ``camera_height.txt``: metres of the camera over the road;
- ``structure.npz``: points, poses and scale, made by ``python -m train structure``;
- ``frames.txt``: where the folder has only some frames of a recording, a row per frame: its number
  in the recording, and 1 if it may be a target, else 0. Without the file, successive images are
  neighbours, and each may be a target.

Files of one frame share their stem. A data set is a sequence, or a folder of sequences.

Other names that public data sets use are understood too: ``image_0/`` and the like for the
images, ``K.txt`` or KITTI's ``calib.txt`` for the intrinsics, 4x4 poses.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depth_ros.core.camera import (
    CameraError,
    ImageFit,
    Intrinsics,
    check_intrinsics,
    scale_intrinsics,
)
from depth_ros.core.metrics.trajectory import orthonormal
from depth_ros.core.pictures import ImageError, decode_picture
from depth_ros.evaluation.structure import Structure, read_structure
from depth_ros.files import natural
from train.data.hints import hint
from train.data.pictures import IMAGE_SUFFIXES, DataError, common_size, find_images

UNKNOWN = 'unknown'
LISTED = 20  # problems that a message names one by one
MAPS = {'depth': np.uint16, 'semantics': np.uint8}  # folders of maps, and the type of their values
TABLES = (
    'times.txt',
    'speed.txt',
    'poses.txt',
    'odometry.txt',
    'frames.txt',
)  # files with a row per frame


@dataclass(frozen=True)
class Sequence:
    """One recorded drive.

    Attributes:
        folder: where it lies.
        images: paths in temporal order.
        intrinsics: (3, 3) in pixels of the images as stored; NaN where unknown.
        times: (N,) seconds, or ``None``.
        poses: (N, 4, 4) camera-to-world, metres, or ``None``.
        odometry: (N, 4, 4) body-to-world as measured, metres, NaN in part, or ``None``.
        speeds: (N,) m/s as measured, NaN in part, or ``None``.
        frames: (N, 2) int, number in the recording and whether it may be a target, or ``None``.
        depth_scale: metres of one step of the depth maps' values.
        camera_height: metres over the road, or ``None``.
    """

    folder: Path
    images: tuple[Path, ...]
    intrinsics: np.ndarray
    times: np.ndarray | None
    poses: np.ndarray | None
    odometry: np.ndarray | None = None
    speeds: np.ndarray | None = None
    frames: np.ndarray | None = None
    depth_scale: float = 1e-3
    camera_height: float | None = None

    def distance(self, a: int, b: int) -> float:
        """Metres between frames ``a`` and ``b``, NaN where they were not measured.

        By odometry, the straight distance of the body; where odometry is missing, the integral of
        the speed.
        """
        if self.odometry is not None:
            moved = float(np.linalg.norm(self.odometry[b, :3, 3] - self.odometry[a, :3, 3]))
            if np.isfinite(moved):
                return moved
        if self.speeds is None or self.times is None:
            return float('nan')
        span = slice(min(a, b), max(a, b) + 1)
        speeds, times = self.speeds[span], self.times[span]
        return float(abs(np.sum((speeds[1:] + speeds[:-1]) / 2 * np.diff(times))))

    def depth_path(self, index: int) -> Path:
        """Where the depth map of frame ``index`` lies, if there is one."""
        return self.folder / 'depth' / f'{self.images[index].stem}.png'

    def semantics_path(self, index: int) -> Path:
        """Where the label image of frame ``index`` lies, if there is one."""
        return self.folder / 'semantics' / f'{self.images[index].stem}.png'

    def structure(self) -> Structure | None:
        """What structure from motion says of it, or ``None``.

        Raises:
            StructureError: if the file is damaged, or of other images.
        """
        return read_structure(self.folder, len(self.images))


def find_sequences(root: str | Path, calibrated: bool = True) -> list[Sequence]:
    """All sequences in or directly under ``root``, sorted by name.

    ``calibrated`` is as for :func:`read_sequence`.

    Raises:
        DataError: if there are none, or one is incomplete.
    """
    root = Path(root)
    if _has_images(root):
        return [read_sequence(root, calibrated=calibrated)]
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}': check the path")
    folders = sorted(
        (p for p in root.iterdir() if p.name[0] != '.' and _has_images(p)),
        key=natural,
    )  # without those that are not finished
    if not folders:
        what = hint(root) or 'expected images/ in it or in its sub-folders'
        raise DataError(f"no sequences in '{root}': {what}")
    sequences, problems = [], []
    for folder in folders:
        try:
            sequences.append(read_sequence(folder, calibrated=calibrated))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(
            f'{len(problems)} of {len(folders)} sequences cannot be used:\n  '
            + '\n  '.join(problems)
        )
    return sequences


def read_sequence(
    folder: str | Path, image_dir: str | None = None, *, calibrated: bool = True
) -> Sequence:
    """Read the list of a sequence's files.

    Args:
        folder: the sequence.
        image_dir: where in it the images lie; found if not given.
        calibrated: whether it is an error that there are no intrinsics; otherwise they are
            unknown.

    Raises:
        DataError: if images or intrinsics are missing or the lists differ in length.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}': check the path")
    where = folder / image_dir if image_dir else _find_images(folder)
    if not where.is_dir():
        raise DataError(f"there is no folder '{where}': check the name of the images' folder")
    images = tuple(find_images(where))
    if not images:
        found = hint(where) or 'check the path'
        raise DataError(f"'{where}' holds no jpg or png images: {found}")
    _check_rows(folder, images)
    times = _read_table(folder / 'times.txt', len(images), (1,))
    speeds = _read_table(folder / 'speed.txt', len(images), (1,), gaps=True)
    poses = read_poses(folder / 'poses.txt', len(images))
    odometry = read_poses(folder / 'odometry.txt', len(images), gaps=True)
    scale = _read_table(folder / 'depth_scale.txt', 1, (1,))
    height = _read_table(folder / 'camera_height.txt', 1, (1,))
    if height is not None and height[0, 0] <= 0:
        raise DataError(f"'{folder / 'camera_height.txt'}' must be more than 0 m")
    frames = _read_table(folder / 'frames.txt', len(images), (2,))
    if frames is not None and (np.diff(frames[:, 0]) <= 0).any():
        raise DataError(f"'{folder / 'frames.txt'}': the frames' numbers must grow")
    return Sequence(
        folder,
        images,
        _read_intrinsics(folder, where.name, calibrated),
        None if times is None else times[:, 0],
        poses,
        odometry,
        None if speeds is None else speeds[:, 0],
        None if frames is None else frames.astype(int),
        Sequence.depth_scale if scale is None else float(scale[0, 0]),
        None if height is None else float(height[0, 0]),
    )


def _check_rows(folder: Path, images: tuple[Path, ...]) -> None:
    """Check that each file with a row per frame has as many rows as there are images."""
    for path in (folder / name for name in TABLES):
        if not path.exists():
            continue
        rows = sum(
            bool(line.partition('#')[0].strip())
            for line in path.read_text(errors='replace').splitlines()
        )
        if rows == len(images):
            continue
        lost = ''
        there = {int(p.stem) for p in images if re.fullmatch('[0-9]+', p.stem)}
        if len(there) == len(images) and max(there) - min(there) + 1 == rows:
            lost = (
                ' (by the numbering: '
                + ', '.join(
                    f'{n:0{len(images[0].stem)}d}{images[0].suffix}'
                    for n in [n for n in range(min(there), max(there)) if n not in there][:LISTED]
                )
                + ')'
            )
        what = (
            f'{rows - len(images)} images are missing{lost}: restore them'
            if rows > len(images)
            else 'rows are missing, or images were added: remove these'
        )
        raise DataError(
            f"'{images[0].parent}' has {len(images)} images, but '{path}' has {rows} "
            f'rows. {what}, or prepare the sequence again'
        )


def _has_images(folder: Path) -> bool:
    """Whether a folder is a sequence, by any name of the images' folder."""
    return (folder / 'images').is_dir() or any(
        p.suffix.lower() in IMAGE_SUFFIXES for p in folder.glob('image*/*')
    )


def _find_images(folder: Path) -> Path:
    """The only folder in ``folder`` that can hold the images; ``images`` wins."""
    if (folder / 'images').is_dir():
        return folder / 'images'
    found = sorted((p for p in folder.glob('image*') if p.is_dir()), key=natural)
    if len(found) == 1:
        return found[0]
    if found and not any(p.name == 'data' for q in found for p in q.iterdir()):
        raise DataError(
            f"'{folder}' has several folders of images: choose one of "
            + ', '.join(p.name for p in found)
        )
    raise DataError(f"'{folder}' has no folder of images: {hint(folder) or 'expected images/'}")


def _read_intrinsics(folder: Path, images: str, calibrated: bool) -> np.ndarray:
    """Pinhole matrix (3, 3) from the first file that exists; NaN if the camera is unknown."""
    unknown = np.full((3, 3), np.nan)
    path = folder / 'intrinsics.txt'
    if path.exists() and path.read_text(errors='replace').strip() == UNKNOWN:
        return unknown
    for name in ('intrinsics.txt', 'K.txt'):
        matrix = _read_table(folder / name, 3, (3,))
        if matrix is not None:
            return _pinhole(matrix, folder / name)
    path = folder / 'calib.txt'
    if not path.exists():
        if not calibrated:
            return unknown
        raise DataError(
            f"'{folder}' has no intrinsics: write fx 0 cx / 0 fy cy / 0 0 1, in "
            f"pixels of the images, to its intrinsics.txt, or '{UNKNOWN}' to learn "
            'them'
        )
    # KITTI numbers cameras and folders alike: P2 belongs to image_2.
    number = re.search(r'_0?(\d)$', images)
    name = f'P{number[1] if number else 0}'
    row = re.search(rf'^{name}:(.*)$', path.read_text(errors='replace'), re.MULTILINE)
    try:
        matrix = np.array(row[1].split() if row else [], float).reshape(3, 4)
    except ValueError as error:
        raise DataError(f"'{path}' has no row '{name}:' of 12 numbers") from error
    return _pinhole(matrix[:, :3], path)


def _pinhole(matrix: np.ndarray, path: Path) -> np.ndarray:
    if min(matrix[0, 0], matrix[1, 1]) <= 0 or (matrix[2] != [0, 0, 1]).any():
        raise DataError(
            f"'{path}' is no camera matrix: expected fx 0 cx / 0 fy cy / 0 0 1 with "
            'positive fx and fy'
        )
    return matrix


def read_poses(path: Path, count: int, gaps: bool = False) -> np.ndarray | None:
    """Read poses (N, 4, 4) from rows of 12 or 16 numbers; ``None`` if there is no such file.

    Args:
        path: text file.
        count: number of rows that the file must have.
        gaps: whether rows of NaN are allowed.

    Raises:
        DataError: if there is another number of rows, or one is no pose.
    """
    rows = _read_table(path, count, (12, 16), gaps)
    if rows is None:
        return None
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    known = np.isfinite(rows).all(1)
    matrices[known, : rows.shape[1] // 4] = rows[known].reshape(known.sum(), -1, 4)
    rotations = matrices[:, :3, :3]
    skewed = np.abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max((1, 2)) > 1e-2
    wrong = skewed | (np.linalg.det(rotations) < 0) | (matrices[:, 3] != [0, 0, 0, 1]).any(1)
    if wrong.any():
        raise DataError(
            f"'{path}', row {wrong.argmax() + 1}, is no camera pose: expected a "
            'rotation and a translation, [R t]'
        )
    matrices[known] = orthonormal(matrices[known])  # numbers in a text are rounded
    matrices[~known] = np.nan
    return matrices


def _read_table(
    path: Path, rows: int, columns: tuple[int, ...], gaps: bool = False
) -> np.ndarray | None:
    """Read a table of finite numbers (or NaN, with ``gaps``); ``None`` if there is no file."""
    if not path.exists():
        return None
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from error
    if (
        len(table) != rows
        or table.shape[1] not in columns
        or not (gaps or np.isfinite(table).all())
    ):
        wanted = ' or '.join(f'{rows}x{n}' for n in columns)
        raise DataError(
            f"'{path}' holds {table.shape[0]}x{table.shape[1]} numbers, "
            f'needed are {wanted} finite ones'
        )
    return table


def scaled_intrinsics(sequence: Sequence, width: int, height: int) -> np.ndarray:
    """Intrinsics (3, 3) float32 of the sequence's images resized to (width, height).

    Raises:
        DataError: if no image can be read, or these cannot be the intrinsics of the images.
    """
    stored = stored_size(sequence)
    if stored is None:
        raise DataError(f"'{sequence.images[0].parent}' has no image that can be read")
    check_camera(sequence.intrinsics, stored, str(sequence.folder), square=False)
    return scale_intrinsics(sequence.intrinsics, width / stored[0], height / stored[1]).astype(
        np.float32
    )


def check_camera(
    intrinsics: np.ndarray, size: tuple[int, int], what: str, square: bool = True
) -> list[str]:
    """What is odd about intrinsics (3, 3) of pictures of ``size`` (width, height); NaN is unknown.

    Args:
        intrinsics, size: of the camera.
        what: whose they are, for the message.
        square: as of :func:`depth_ros.core.camera.check_intrinsics`; false for what is prepared.

    Raises:
        DataError: if they are impossible.
    """
    if np.isnan(intrinsics).any():
        return []
    try:
        return check_intrinsics(Intrinsics.from_matrix(intrinsics, *size), square=square)
    except CameraError as error:
        raise DataError(f"'{what}': {error}") from error


def stored_size(sequence: Sequence) -> tuple[int, int] | None:
    """Width and height of most images, as stored; ``None`` if none can be read."""
    with suppress(DataError):
        return common_size(sequence.images)
    return None


def resize_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image (h, w, 3) uint8 at (height, width), resized exactly as the nodes do."""
    if image.shape[:2] == (height, width):
        return image
    # Where a resize samples does not depend on the intrinsics.
    fit = ImageFit.create(
        Intrinsics(1, 1, 0, 0, image.shape[1], image.shape[0]),
        Intrinsics(1, 1, 0, 0, width, height),
    )
    out = np.empty((height, width, 3), np.uint8)
    fit.to_network(image, out)
    return out


def resize_map(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """A map (h, w) at (height, width); each pixel takes the value nearest to its centre."""
    if values.shape == (height, width):
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def read_picture(path: Path, flags: int = cv2.IMREAD_COLOR, *, upright: bool = False) -> np.ndarray:
    """An image file as OpenCV decodes it by ``flags``: BGR (H, W, 3) uint8.

    Args:
        path: the file.
        flags: OpenCV's.
        upright: turned by its EXIF orientation, as a picture alone is seen. Intrinsics, depth and
            labels of a sequence are of the pixels as they are stored.

    Raises:
        DataError: if it is missing, damaged or cut short.
    """
    try:
        return decode_picture(path.read_bytes(), flags, upright=upright)
    except OSError as error:
        raise DataError(f"image '{path}' is damaged or missing ({error.strerror})") from error
    except ImageError as error:
        raise DataError(f"image '{path}' is damaged: {error}") from error


def read_image(path: Path, width: int, height: int) -> np.ndarray:
    """RGB image (height, width, 3) uint8, resized as the nodes do.

    Raises:
        DataError: if the file cannot be used.
    """
    return cv2.cvtColor(resize_image(read_picture(path), width, height), cv2.COLOR_BGR2RGB)


def read_map(path: Path, scale: float = 1.0, dtype: type[np.generic] | None = None) -> np.ndarray:
    """A single-channel png (H, W) as stored; times ``scale``, as float32, if that is not 1.

    Raises:
        DataError: if the file cannot be used, has several channels, or is not of type ``dtype``.
    """
    values = read_picture(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2:
        raise DataError(f"map '{path}' has {values.shape[2]} channels, must have one")
    if dtype and values.dtype != dtype:
        raise DataError(
            f"map '{path}' has values of {values.dtype}, must be {np.dtype(dtype).name}"
        )
    return values if scale == 1.0 else values.astype(np.float32) * scale
