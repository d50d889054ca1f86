"""Training samples: triplets of consecutive images of the sequences of a data set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from train.sequences import IGNORE, DataError, Sequence, find_sequences, read_image, read_map


def scaled_intrinsics(sequence: Sequence, width: int, height: int) -> np.ndarray:
    """Intrinsics (3, 3) float32 of the sequence's images resized to (width, height)."""
    image = cv2.imread(str(sequence.images[0]))
    if image is None:
        raise DataError(f"image '{sequence.images[0]}' is missing or damaged")
    x_scale, y_scale = width / image.shape[1], height / image.shape[0]
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
        max_gap: neighbours are drawn from 1 to this many frames away, the same on both sides; at
            the ends of a sequence from as many as there are.
        augment: random horizontal flips and colour jitter (brightness, contrast, saturation 0.2,
            hue 0.1, each with probability 0.5, as in both papers).
    """

    def __init__(self, root: str | Path, width: int, height: int, augment: bool,
                 max_gap: int = 1) -> None:
        self.width, self.height, self.augment = width, height, augment
        self.max_gap = max_gap
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
        most = min(self.max_gap, frame, len(sequence.images) - 1 - frame)
        gap = int(torch.randint(1, most + 1, ()))
        images = np.stack([read_image(sequence.images[frame + k], *size) for k in (-gap, 0, gap)])
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
