"""Training data: folders of consecutive images.

A sequence is a folder with ``images/`` (jpg or png; the names' order is the order in time),
``intrinsics.txt`` (3x3, pixels) and, where known, ``times.txt`` (seconds), ``poses.txt`` (3x4
camera-to-world a row, metres), ``depth/`` (16-bit png, millimetres along the optical axis,
0 = unknown) and ``semantics/`` (8-bit png, class ids, 255 = ignore). Files of one frame share
their stem. A data set is a sequence, or a folder of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

IGNORE = 255
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')


class DataError(ValueError):
    """The data on disk cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Sequence:
    """One recorded drive.

    Attributes:
        folder: where it lies.
        images: paths in temporal order.
        intrinsics: (3, 3) in pixels of the images as stored.
        times: (N,) seconds, or ``None``.
        poses: (N, 4, 4) camera-to-world, metres, or ``None``.
    """

    folder: Path
    images: tuple[Path, ...]
    intrinsics: np.ndarray
    times: np.ndarray | None
    poses: np.ndarray | None

    def depth_path(self, index: int) -> Path:
        """Where the depth map of frame ``index`` lies, if there is one."""
        return self.folder / 'depth' / f'{self.images[index].stem}.png'

    def semantics_path(self, index: int) -> Path:
        """Where the label image of frame ``index`` lies, if there is one."""
        return self.folder / 'semantics' / f'{self.images[index].stem}.png'


def find_sequences(root: str | Path) -> list[Sequence]:
    """All sequences in or directly under ``root``, sorted by name.

    Raises:
        DataError: if there are none, or one is incomplete.
    """
    root = Path(root)
    if (root / 'images').is_dir():
        return [read_sequence(root)]
    folders = sorted(p.parent for p in root.glob('*/images') if p.is_dir())
    if not folders:
        raise DataError(f"no sequences in '{root}': expected images/ in it or in its sub-folders")
    return [read_sequence(folder) for folder in folders]


def read_sequence(folder: Path) -> Sequence:
    """Read the list of a sequence's files.

    Raises:
        DataError: if images or intrinsics are missing or the lists differ in length.
    """
    images = tuple(sorted(p for p in (folder / 'images').iterdir()
                          if p.suffix.lower() in IMAGE_SUFFIXES))
    if not images:
        raise DataError(f"'{folder}/images' holds no jpg or png images")
    times = _read_table(folder / 'times.txt', len(images), 1, optional=True)
    poses = _read_table(folder / 'poses.txt', len(images), 12, optional=True)
    if poses is not None:
        matrices = np.tile(np.eye(4), (len(images), 1, 1))
        matrices[:, :3] = poses.reshape(-1, 3, 4)
        poses = matrices
    return Sequence(
        folder=folder, images=images,
        intrinsics=_read_table(folder / 'intrinsics.txt', 3, 3, optional=False),
        times=None if times is None else times[:, 0], poses=poses)


def _read_table(path: Path, rows: int, columns: int, optional: bool) -> np.ndarray | None:
    """Read a text table of known size."""
    if optional and not path.exists():
        return None
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from error
    if table.shape != (rows, columns) or not np.isfinite(table).all():
        raise DataError(f"'{path}' holds {table.shape[0]}x{table.shape[1]} numbers, "
                        f'needed are {rows}x{columns} finite ones')
    return table


def read_image(path: Path, width: int, height: int) -> np.ndarray:
    """RGB image (height, width, 3) uint8, resized the way the nodes do (pixel areas)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"image '{path}' is missing or damaged: restore or delete it")
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_map(path: Path, scale: float = 1.0) -> np.ndarray:
    """A single-channel png (H, W) as stored, times ``scale`` where that is not one."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2:
        raise DataError(f"map '{path}' is missing, damaged or has several channels")
    return values if scale == 1.0 else values.astype(np.float32) * scale


def scaled_intrinsics(sequence: Sequence, width: int, height: int) -> np.ndarray:
    """Intrinsics (3, 3) float32 of the sequence's images resized to (width, height)."""
    image = cv2.imread(str(sequence.images[0]), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    full = cv2.imread(str(sequence.images[0])) if image is not None else None
    if full is None:
        raise DataError(f"image '{sequence.images[0]}' is missing or damaged")
    x_scale, y_scale = width / full.shape[1], height / full.shape[0]
    matrix = sequence.intrinsics.copy()
    matrix[0] *= x_scale
    matrix[1] *= y_scale
    matrix[0, 2] += 0.5 * (x_scale - 1)  # pixel centres are at integer coordinates
    matrix[1, 2] += 0.5 * (y_scale - 1)
    return matrix.astype(np.float32)


class TripletDataset(Dataset):
    """Each frame with the one before and the one after.

    Items are dictionaries of tensors:
        images: uint8 (3, 3, H, W): previous, target, next frame, RGB.
        inputs: the same, colour-jittered, for the networks' eyes only.
        intrinsics: float32 (3, 3) at this size.
        labels: int64 (H, W), 255 where unknown.
        depth: float32 (H, W) metres of the target, 0 where unknown.

    Args:
        root: a data set.
        width, height: network size.
        augment: random horizontal flips and colour jitter (brightness, contrast, saturation 0.2,
            hue 0.1, each with probability 0.5, as in both papers).
    """

    def __init__(self, root: str | Path, width: int, height: int, augment: bool) -> None:
        self.width, self.height, self.augment = width, height, augment
        self.sequences = find_sequences(root)
        self._intrinsics = [scaled_intrinsics(s, width, height) for s in self.sequences]
        self._items = [(s, i) for s, sequence in enumerate(self.sequences)
                       for i in range(1, len(sequence.images) - 1)]
        if not self._items:
            raise DataError(f"'{root}' has no sequence of at least three images")
        self._jitter = v2.ColorJitter(0.2, 0.2, 0.2, 0.1)

    def ground_truth(self) -> set[str]:
        """Which of 'depth' and 'semantics' the first sequence has."""
        return {k for k in ('depth', 'semantics') if (self.sequences[0].folder / k).is_dir()}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, frame = self._items[index]
        sequence = self.sequences[number]
        size = (self.width, self.height)
        images = np.stack([read_image(sequence.images[frame + k], *size) for k in (-1, 0, 1)])
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
        intrinsics = torch.from_numpy(self._intrinsics[number].copy())
        labels = torch.from_numpy(self._map(sequence.semantics_path(frame), IGNORE, 1.0)).long()
        depth = torch.from_numpy(self._map(sequence.depth_path(frame), 0, 1e-3)).float()
        if self.augment and torch.rand(()) < 0.5:
            images, labels, depth = images.flip(-1), labels.flip(-1), depth.flip(-1)
            intrinsics[0, 2] = self.width - 1 - intrinsics[0, 2]
        images = images.contiguous()
        jitter = self.augment and torch.rand(()) < 0.5
        return {'images': images, 'inputs': self._jitter(images) if jitter else images,
                'intrinsics': intrinsics, 'labels': labels, 'depth': depth}

    def _map(self, path: Path, missing: int, scale: float) -> np.ndarray:
        """A map at network size, or one full of ``missing`` where the file does not exist."""
        if not path.exists():
            return np.full((self.height, self.width), missing, np.float32)
        values = read_map(path, scale)
        if values.shape != (self.height, self.width):
            values = cv2.resize(values, (self.width, self.height),
                                interpolation=cv2.INTER_NEAREST)
        return values
