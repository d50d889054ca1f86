"""Training samples: consecutive images of the sequences of a data set, and their order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from depth_ros.core.labels import UNLABELED
from train.data.augment import Augmentation
from train.data.sequences import (
    MAPS,
    DataError,
    Sequence,
    find_sequences,
    read_image,
    read_map,
    resize_map,
    scaled_intrinsics,
)

VIEWS = (2, 3, 5)


class FrameDataset(Dataset):
    """Each frame with its neighbours in time.

    Items are dictionaries of tensors:
        images: uint8 (views, 3, H, W), RGB, in temporal order; the target is ``views // 2``.
        inputs: the same images as the networks see them, with the augmentation's changes of look.
        intrinsics: float32 (3, 3), pixels at this size; NaN where unknown.
        labels: int64 (H, W) of the target, 255 where unknown.
        depth: float32 (H, W) of the target, metres along the optical axis, 0 where unknown.
        distance: float32 (views - 1,), metres between the target and each other frame, in
            temporal order; NaN where not measured.

    An item's key is its index, or the index and the seed of its random choices (see
    :class:`StepSampler`); an index alone means seed 0.

    Args:
        root: a data set.
        width, height: network size.
        views: 2 (the frame before, and the target), 3 or 5.
        max_gap: each sample draws a gap of 1 to ``max_gap`` frames between its successive frames,
            among the gaps for which all of its frames exist.
        augment: random changes of the samples, if any.
        exclude: image, depth and label files not to read, such as those that
            :func:`train.data.checks.check_sequences` found damaged. No sample has such an image,
            and such a map counts as unknown.

    Raises:
        DataError: if there is no sample, or a sequence is incomplete.
    """

    def __init__(
        self,
        root: str | Path,
        width: int,
        height: int,
        *,
        views: int = 3,
        max_gap: int = 1,
        augment: Augmentation | None = None,
        exclude: Collection[Path] = (),
    ) -> None:
        if views not in VIEWS:
            raise ValueError(f'views must be one of {VIEWS}, is {views}')
        if max_gap < 1:
            raise ValueError(f'max_gap must be at least 1, is {max_gap}')
        self.width, self.height, self.augment = width, height, augment
        self.sequences = find_sequences(root)
        self._exclude = frozenset(exclude)
        self._offsets = np.arange(views) - views // 2
        self._intrinsics: dict[int, np.ndarray] = {}
        # Number of the sequence and, for each possible gap, the sample's frames.
        self._items: list[tuple[int, list[np.ndarray]]] = []
        for number, sequence in enumerate(self.sequences):
            self._items += [(number, samples) for samples in self._samples(sequence, max_gap)]
        if not self._items:
            raise DataError(
                f"'{root}' has no sequence with {views} successive images that can be used"
            )

    def _samples(self, sequence: Sequence, max_gap: int) -> Iterator[list[np.ndarray]]:
        """Yield for each target its samples, one for each possible gap, as indices of frames."""
        count = len(sequence.images)
        numbers, targets = np.arange(count), np.ones(count, bool)
        if sequence.frames is not None:
            numbers, targets = sequence.frames[:, 0], sequence.frames[:, 1] != 0
        index = {
            int(n): i for i, n in enumerate(numbers) if sequence.images[i] not in self._exclude
        }
        for target in numbers[targets]:
            wanted = [
                [int(target + gap * k) for k in self._offsets] for gap in range(1, max_gap + 1)
            ]
            samples = [
                np.array([index[n] for n in frames])
                for frames in wanted
                if all(n in index for n in frames)
            ]
            if samples:
                yield samples

    def has(self, kind: str) -> bool:
        """Whether some sequence has ground truth of this kind, 'depth' or 'semantics'."""
        return any((s.folder / kind).is_dir() for s in self.sequences)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, 0)
        generator = torch.Generator().manual_seed(seed)
        number, samples = self._items[index]
        sequence = self.sequences[number]
        frames = samples[int(torch.randint(len(samples), (), generator=generator))]
        target = frames[len(frames) // 2]
        images = [read_image(sequence.images[i], self.width, self.height) for i in frames]
        maps = [
            self._map(sequence.semantics_path(target), UNLABELED, MAPS['semantics']),
            self._map(sequence.depth_path(target), 0, MAPS['depth']),
        ]
        if number not in self._intrinsics:
            self._intrinsics[number] = scaled_intrinsics(sequence, self.width, self.height)
        intrinsics, inputs = self._intrinsics[number], images
        if self.augment is not None:
            images, maps, intrinsics = self.augment.view(images, maps, intrinsics, generator)
            inputs = self.augment.look(images, generator)
        stack = _tensor(images)
        return {
            'images': stack,
            'inputs': stack if inputs is images else _tensor(inputs),
            'intrinsics': torch.tensor(intrinsics, dtype=torch.float32),
            'labels': torch.from_numpy(maps[0].astype(np.int64)),
            'depth': torch.from_numpy(maps[1] * np.float32(sequence.depth_scale)),
            'distance': torch.tensor(
                [sequence.distance(target, i) for i in frames if i != target], dtype=torch.float32
            ),
        }

    def _map(self, path: Path, missing: int, dtype: type[np.generic]) -> np.ndarray:
        """A map at network size; filled with ``missing`` if there is no such file."""
        if path in self._exclude or not path.exists():
            return np.full((self.height, self.width), missing, dtype)
        return resize_map(read_map(path, dtype=dtype), self.width, self.height)


def _tensor(images: list[np.ndarray]) -> torch.Tensor:
    """Images (H, W, 3) as one tensor (N, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The samples of every step of a training, as a DataLoader's ``batch_sampler``.

    Yields for each step a list of ``batch_size`` pairs (index, seed). All steps and processes
    together go through the data set in one random order after another. The pairs depend only on the
    arguments and the step, so a resumed training sees the same samples as an uninterrupted one, and
    several processes together see the same samples as one process with their whole batch.

    Args:
        size: number of samples in the data set.
        batch_size: of this process.
        steps: of the whole training. It is also the sampler's length, whatever ``start_step`` is:
            Lightning also counts the steps before a resume.
        seed: decides the orders and the samples' seeds.
        rank, world_size: number of this process, and number of processes.
        start_step: the first step to yield.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        if min(size, batch_size, steps) < 1:
            raise ValueError(
                f'a training needs at least one sample, a batch of one and one '
                f'step, has {size}, {batch_size} and {steps}'
            )
        if not 0 <= rank < world_size:
            raise ValueError(f'rank {rank} is not one of {world_size} processes')
        self.size, self.batch_size, self.steps, self.seed = size, batch_size, steps, seed
        self.rank, self.world_size, self.start_step = rank, world_size, start_step
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield [self._pair(start + i) for i in range(self.batch_size)]

    def _pair(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_mix(self.seed, 0, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
        return int(self._order[offset]), _mix(self.seed, 1, position)


def _mix(*numbers: int) -> int:
    """A seed of 63 bits, different for different ``numbers``."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def init_worker(_: int) -> None:
    """A DataLoader's ``worker_init_fn``: OpenCV uses one thread per worker, as torch does."""
    cv2.setNumThreads(1)
